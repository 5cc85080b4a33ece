/*
 * fuzz_safetensors.c: a model.safetensors that says anything: header, offsets, shapes, and a touch
 * of each tensor's first and last byte.
 */
#include "core/weights/safetensors.h"
#include "fuzz.h"

volatile uint8_t fuzz_sink; /* so that the reads stay */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_file("model.safetensors", data, size);
    struct error err = {0};
    struct tensor_set *set = tensor_set_open(fuzz_directory(), NULL, &err);
    if (!set)
        return 0;
    const struct tensor_view *view;
    for (size_t i = 0; tensor_set_at(set, i, &view); i++) {
        size_t bytes = view->dtype == N_DTYPES ? 0 : view->n_elements * dtype_size(view->dtype);
        if (bytes)
            fuzz_sink = (uint8_t)(((const uint8_t *)view->data)[0] +
                                  ((const uint8_t *)view->data)[bytes - 1]);
    }
    (void)tensor_set_fingerprint(set);
    tensor_set_close(set);
    return 0;
}

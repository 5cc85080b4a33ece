/*
 * fuzz_image.c: picture files: JPEG, PNG and WebP decoders and their EXIF.
 */
#include "core/image/image.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct image image = {0};
    struct error err = {0};
    if (image_decode(data, size, 1 << 20, NULL, &image, &err) == STATUS_OK)
        image_release(&image);
    return 0;
}

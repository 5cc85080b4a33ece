/*
 * commands_info.c: `vlmd models`, `vlmd inspect`, `vlmd info`, `vlmd config`, `vlmd healthcheck`:
 * looking without computing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/ask.h"
#include "server/client.h"
#include "server/commands.h"

enum { HEALTH_TIMEOUT_S = 5, HEALTH_BYTES_MAX = 64 << 10 };

/* ---- models
 * --------------------------------------------------------------------------------------- */

static void print_tasks(uint32_t tasks)
{
    const char *before = "";
    for (int t = 0; t < N_TASKS; t++)
        if (tasks & 1u << t) {
            printf("%s%s", before, task_name(t));
            before = ",";
        }
}

int command_models(struct arguments *arguments)
{
    struct process process;
    struct error err;
    if (process_open(&process, &arguments->settings, PROCESS_MODELS, &err))
        return command_fail(&err);
    enum status status = STATUS_OK;
    if (arguments->json) {
        json_t *reply;
        status = client_call(&process, "GET", "/v1/models", "", NULL, NULL, 0, &reply, &err);
        if (!status)
            print_json(reply);
        json_decref(status ? NULL : reply);
    } else {
        printf("%-20s %-32s %10s  %s\n", "MODEL", "ARCHITECTURE", "PARAMETERS", "TASKS");
        for (size_t i = 0; i < runtime_count(process.runtime); i++) {
            const struct model *model = lane_model(runtime_at(process.runtime, i));
            printf("%-20s %-32s %9.1fM  ", model->name, model->architecture->name,
                   (double)model->n_parameters / 1e6);
            print_tasks(model_tasks(model));
            putchar('\n');
        }
        const struct expected_model *expected;
        for (size_t i = 0; (expected = runtime_expected(process.runtime, i)); i++)
            if (atomic_load(&expected->state) == MODEL_FAILED)
                fprintf(stderr, "vlmd: left out: %s\n", expected->why.message);
    }
    process_close(&process);
    return status ? command_fail(&err) : EXIT_FINE;
}

/* ---- inspect
 * -------------------------------------------------------------------------------------- */

int command_inspect(struct arguments *arguments)
{
    const char *directory = arguments->operands[0];
    struct error err;
    struct checkpoint *checkpoint = checkpoint_open(directory, &err);
    if (!checkpoint)
        return command_fail(&err);
    size_t n = tensor_set_count(checkpoint->tensors), counts[N_DTYPES] = {0}, elements = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tensor_view *view;
        tensor_set_at(checkpoint->tensors, i, &view);
        counts[view->dtype]++;
        elements += view->n_elements;
    }
    const char *architecture = checkpoint_architecture(checkpoint, &err);
    printf("architecture  %s\n", architecture ? architecture : "(none named in config.json)");
    printf("revision      %s\n", checkpoint->revision);
    printf("tensors       %zu, %.1f MiB, %.1fM elements:", n,
           (double)tensor_set_bytes(checkpoint->tensors) / (1 << 20), (double)elements / 1e6);
    for (int d = 0; d < N_DTYPES; d++)
        if (counts[d])
            printf(" %zu %s", counts[d], dtype_name(d));
    putchar('\n');
    checkpoint_free(checkpoint);

    struct model *model = model_open("inspected", directory, &err);
    if (!model) {
        printf("servable      no: %s\n", err.message);
        return EXIT_FAULT;
    }
    printf("servable      yes\ntasks         ");
    print_tasks(model_tasks(model));
    printf("\nparameters    %.1fM\n", (double)model->n_parameters / 1e6);
    if (model->traits.image_height)
        printf("pictures      %zu × %zu\n", model->traits.image_width, model->traits.image_height);
    if (model->traits.context_length)
        printf("texts         up to %zu tokens\n", model->traits.context_length);
    if (model->traits.embed_dim)
        printf("embeddings    %zu dimensions\n", model->traits.embed_dim);
    model_free(model);
    return EXIT_FINE;
}

/* ---- info
 * ---------------------------------------------------------------------------------------- */

int command_info(struct arguments *arguments)
{
    struct process process;
    struct error err;
    if (process_open(&process, &arguments->settings, 0, &err))
        return command_fail(&err);
    printf("version       %s\nengine        %s\nfast in       ", VLMD_VERSION, nn_engine_name());
    for (enum weight_form form = 0; form < N_WEIGHT_FORMS; form++)
        if (nn_engine_is_fast(form))
            printf("%s%s", form ? ", " : "", weight_form_name(form));
    printf("\nthreads       %zu\n", pool_threads(runtime_pool(process.runtime)));
    printf("engines here ");
    for (enum nn_engine engine = NN_ENGINE_AUTO + 1; engine < N_NN_ENGINES; engine++)
        if (nn_engine_choose(engine))
            printf(" %s", nn_engine_name());
    putchar('\n');
    process_close(&process);
    return EXIT_FINE;
}

/* ---- config
 * ---------------------------------------------------------------------------------------- */

int command_config(struct arguments *arguments)
{
    struct buffer out;
    buffer_init(&out, 16 << 20);
    bool ok = arguments->sample ? settings_print_sample(&out)
                                : settings_print(&arguments->settings, &out);
    if (ok)
        fputs(out.data, stdout);
    buffer_release(&out);
    return ok ? EXIT_FINE : EXIT_FAULT;
}

/* ---- healthcheck
 * ------------------------------------------------------------------------------------ */

int command_healthcheck(struct arguments *arguments)
{
    struct buffer body;
    struct error err;
    int http_status;
    buffer_init(&body, HEALTH_BYTES_MAX);
    enum status status =
        ask_server(&arguments->settings, "/readyz", HEALTH_TIMEOUT_S, &body, &http_status, &err);
    if (!status)
        printf("%s\n", http_status == 200 ? "ready" : body.data);
    buffer_release(&body);
    if (status)
        return command_fail(&err);
    return http_status == 200 ? EXIT_FINE : EXIT_FAULT;
}

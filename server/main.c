/*
 * main.c: `vlmd COMMAND …`: the table of subcommands and their help.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "server/commands.h"

struct command {
    const char *name;
    int (*run)(struct arguments *arguments);
    bool with_fields; /* unknown options are fields of the request it makes */
    size_t operands_min, operands_max;
    const char *operands;
    const char *summary;
    const char *help;   /* paragraphs and examples */
    const char *writes; /* --draw or --html: what is found, into a file; NULL = neither */
};

/* clang-format off */
static const struct command commands[] = {
    {"serve", command_serve, false, 0, 0, "", "answer HTTP requests",
     "Serves the checkpoints that --model NAME=DIR (repeatable) or --models-dir DIR name, and the\n"
     "embedded models when neither is given. Prints one line when ready. SIGTERM drains.\n\n"
     "  vlmd serve\n"
     "  vlmd serve --listen 0.0.0.0:8080 --model clip=/models/clip-vit-base-patch32\n"
     "  vlmd serve --config /etc/vlmd.conf --set max_batch=16\n"
     "  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' localhost:8080/v1/caption\n"},
    {"caption", command_caption, true, 1, OPERANDS_MAX, "IMAGE...", "describe pictures in words",
     "Request fields are options: --prompt, --num-beams, --max-tokens, --temperature, --seed …\n\n"
     "  vlmd caption cat.jpg\n"
     "  vlmd caption --num-beams 3 --prompt 'a photo of' cat.jpg dog.png\n"},
    {"ask", command_ask, true, 2, 2, "IMAGE QUESTION", "answer a question about a picture",
     "  vlmd ask cat.jpg 'what colour is the cat?'\n"},
    {"match", command_match, true, 2, OPERANDS_MAX, "IMAGE TEXT...", "how well texts fit a picture",
     "Prints a probability per text.\n\n"
     "  vlmd match cat.jpg 'a cat on a sofa' 'a dog in a field'\n"},
    {"classify", command_classify, true, 2, OPERANDS_MAX, "IMAGE LABEL...", "choose among labels, best first",
     "Zero-shot: any words are labels. --template 'a photo of a {}' is put around each.\n\n"
     "  vlmd classify cat.jpg cat dog pizza\n"},
    {"detect", command_detect, true, 1, OPERANDS_MAX, "IMAGE QUERY...", "find things, with boxes",
     "Prints score, box (xmin ymin xmax ymax in pixels) and query, best first. --draw OUT.png writes\n"
     "the picture with the boxes in it. --query-image FILE instead of queries finds what it shows.\n"
     "--threshold, --nms-threshold, --max-detections; --segment-model NAME adds masks.\n\n"
     "  vlmd detect street.jpg car 'a red traffic light' --draw found.png\n", "draw"},
    {"segment", command_segment, true, 1, OPERANDS_MAX, "IMAGE PROMPT...", "find things, with masks",
     "Prints the share of the picture, the box around it (xmin ymin xmax ymax) and the prompt.\n"
     "--draw OUT.png writes the picture with the masks in it; --json has them as PNG. --query-image\n"
     "FILE instead of prompts segments what it shows. --threshold 0.5 is what counts as found.\n\n"
     "  vlmd segment street.jpg sky road --draw found.png\n", "draw"},
    {"embed", command_embed, true, 1, OPERANDS_MAX, "(IMAGE|TEXT)...", "vectors of pictures and texts",
     "An operand that names a file is a picture, any other is a text. One JSON list a line.\n\n"
     "  vlmd embed cat.jpg 'a cat' > vectors.jsonl\n"},
    {"index", command_index, true, 2, 2, "COLLECTION DIR", "put a folder's pictures into a collection",
     "Walks DIR; ids are paths relative to it. The collection is made when it does not exist. Files whose\n"
     "size and time (or, where those differ, bytes) are as they were are left alone: a run that was broken\n"
     "off goes on. Files that are gone are told, and removed with --prune. --watch goes on following the\n"
     "folder. What failed is listed at the end; exit status 1 then.\n\n"
     "  vlmd index holidays ~/Pictures\n"
     "  vlmd index holidays ~/Pictures --watch --prune\n"
     "  vlmd search holidays 'a dog on the beach'\n"},
    {"search", command_search, true, 2, 2, "COLLECTION (TEXT|IMAGE)", "find pictures in a collection",
     "Prints score and id, best first. --html FILE also writes a contact sheet: one page with thumbnails,\n"
     "scores, ids and metadata, that opens in any browser without a server. Other options are request\n"
     "fields: --top-k, --min-score, --filter JSON, --rerank true, --exact true.\n\n"
     "  vlmd search holidays 'a dog on the beach' --top-k 5\n"
     "  vlmd search holidays query.jpg --html found.html\n"
     "  vlmd search holidays 'a dog' --filter '{\"year\": {\"gte\": 2020}}' --rerank true\n", "html"},
    {"export", command_export, true, 2, 2, "COLLECTION FILE", "write a collection to a file of JSON lines",
     "FILE - is standard output. Vectors are base64 (--encoding float: numbers), and the pictures that\n"
     "are kept come too (--images false: not). No model is needed.\n\n"
     "  vlmd export holidays holidays.jsonl\n"
     "  vlmd export holidays - --images false | zstd > holidays.jsonl.zst\n"},
    {"import", command_import, false, 2, 2, "COLLECTION FILE", "add the JSON lines of a file to a collection",
     "FILE - is standard input. The first line of an export makes the collection when it does not\n"
     "exist; vectors of another embedding space are refused. Lines may also be written by hand:\n"
     "{\"id\", \"image\" or \"text\" or \"vector\", \"metadata\"}. Exit status 1 when a line failed.\n\n"
     "  vlmd import holidays holidays.jsonl\n"},
    {"eval", command_eval, true, 1, 1, "DATASET", "how right the models are on your own data",
     "DATASET is JSON lines, or a folder with metadata.jsonl. A row names a picture (`image` or\n"
     "`file_name`, relative to the file) and what is true of it:\n\n"
     "  question + answer or answers   vqa: accuracy (ten answers: as VQA v2 counts)\n"
     "  label                          classify: top-1, top-5 among all labels of the set\n"
     "  texts + match (an index)       match: accuracy\n"
     "  caption or captions            caption: CIDEr-D, BLEU-4; with --task retrieve: R@1, 5, 10\n"
     "  boxes: [{label, box}]          detect: AP50, AP (COCO)\n"
     "  masks: [{prompt, mask: PNG}]   segment: mIoU\n\n"
     "Rows with a `kind` are also counted by it. --task, --limit ROWS, --out ROWS.jsonl (each row with\n"
     "what was answered); other options are request fields.\n\n"
     "  vlmd eval vqa.jsonl --model vqa=/models/blip-vqa-base\n"
     "  vlmd eval flickr30k/ --task retrieve --limit 1000 --model /models/clip-vit-base-patch32\n"},
    {"models", command_models, false, 0, 0, "", "list the models that would be served",
     "  vlmd models\n"
     "  vlmd models --models-dir /models --json\n"},
    {"inspect", command_inspect, false, 1, 1, "DIR", "what a checkpoint holds, and whether it can be served",
     "  vlmd inspect /models/blip-vqa-base\n"},
    {"pull", command_pull, true, 0, 1, "NAME", "download a checkpoint from a hub",
     "Into a directory of that name, or --to DIR; --revision REV. Only the files that vlmd reads, and no\n"
     "pickles. A broken download is continued. HF_TOKEN in the environment is sent as the token.\n"
     "--list shows public checkpoints that are known to fit, with their licences.\n\n"
     "  vlmd pull --list\n"
     "  vlmd pull timm/vit_base_patch32_clip_224.openai\n"
     "  vlmd pull Salesforce/blip-vqa-base --to /models/vqa\n"},
    {"info", command_info, false, 0, 0, "", "which kernels this chip runs, and how many threads",
     "Engines from best to plainest; `--set engine=NAME` forces one. A dtype that the engine is fast in is\n"
     "multiplied by units of its own.\n\n"
     "  vlmd info\n"
     "  vlmd info --set engine=avx2\n"},
    {"config", command_config, false, 0, 0, "", "print each setting and where it came from",
     "  vlmd config\n"
     "  vlmd config --sample > vlmd.conf\n"},
    {"top", command_top, true, 0, 0, "", "what a running server is doing, live",
     "From its /metrics at --listen, every two seconds (--interval S): requests by endpoint, queues and\n"
     "passes by model. --once prints the rates since its start. A server with keys or TLS is asked with\n"
     "its own --config, or with --set api_key=NAME:KEY and --set tls_cert=FILE.\n\n"
     "  vlmd top\n"
     "  vlmd top --listen 10.0.0.5:8080 --once\n"},
    {"healthcheck", command_healthcheck, false, 0, 0, "", "ask a running server whether it is ready",
     "Exit status 0 when /readyz at --listen answers 200: for containers.\n\n"
     "  vlmd healthcheck --listen 127.0.0.1:8080\n"},
};
/* clang-format on */

static const char common_options[] =
    "Options of every command:\n"
    "  --model NAME=DIR      serve or use this checkpoint (repeatable)\n"
    "  --models-dir DIR      … every checkpoint in this directory\n"
    "  --config FILE         read settings from a file (`vlmd config --sample` documents it)\n"
    "  --set KEY=VALUE       set one setting\n"
    "  --listen ADDR:PORT    --store URI\n"
    "  --model-name NAME     which model answers (commands that compute)\n"
    "  --json                print the whole reply as JSON\n"
    "  -h, --help\n";

static void print_help(FILE *out)
{
    fprintf(out, "vlmd %s: answers about pictures, over HTTP or right here\n\nCommands:\n",
            VLMD_VERSION);
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        fprintf(out, "  vlmd %-11s %-24s %s\n", commands[i].name, commands[i].operands,
                commands[i].summary);
    fprintf(out,
            "\n%s\nExamples:\n  vlmd serve\n  vlmd caption cat.jpg\n"
            "  vlmd ask cat.jpg 'what is on the table?'\n\n"
            "`vlmd COMMAND --help` shows more.\n",
            common_options);
}

static void print_command_help(const struct command *command)
{
    printf("vlmd %s%s%s: %s\n\n%s\n%s", command->name, command->operands[0] ? " " : "",
           command->operands, command->summary, command->help, common_options);
}

int command_fail(const struct error *err)
{
    fprintf(stderr, "vlmd: %s\n", err->message);
    return EXIT_FAULT;
}

int command_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("vlmd: ", stderr);
    vfprintf(stderr, format, args);
    fputs("; see `vlmd --help`\n", stderr);
    va_end(args);
    return EXIT_USAGE;
}

/* Whether the command writes files by this option, where it is given; else says which do. */
static bool may_write(const struct command *command, const char *option, const char *value)
{
    if (!value || (command->writes && !strcmp(command->writes, option)))
        return true;
    char takers[256] = "";
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
        size_t used = strlen(takers);
        if (commands[i].writes && !strcmp(commands[i].writes, option))
            snprintf(takers + used, sizeof takers - used, "%s`vlmd %s`", used ? ", " : "",
                     commands[i].name);
    }
    command_usage("`vlmd %s` does not take --%s; these do: %s", command->name, option, takers);
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return EXIT_FINE;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("vlmd %s\n", VLMD_VERSION);
        return EXIT_FINE;
    }
    const struct command *command = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        if (!strcmp(commands[i].name, argv[1]))
            command = &commands[i];
    if (!command)
        return command_usage("there is no command '%s'", argv[1]);

    struct arguments arguments;
    struct error err;
    if (arguments_parse(&arguments, argc - 2, argv + 2, command->with_fields, &err))
        return command_usage("%s", err.message);
    int rc;
    if (arguments.help) {
        print_command_help(command);
        rc = EXIT_FINE;
    } else if (arguments.n_operands < command->operands_min ||
               arguments.n_operands > command->operands_max) {
        rc = command_usage("usage: vlmd %s %s", command->name, command->operands);
    } else if (!may_write(command, "draw", arguments.draw) ||
               !may_write(command, "html", arguments.html)) {
        rc = EXIT_USAGE;
    } else {
        rc = command->run(&arguments);
    }
    arguments_release(&arguments);
    return rc;
}

/*
 * registry.c: the architectures, one line each.
 */
#include "core/models/model.h"

#include <string.h>

#include "core/base/size.h"

#define ARCHITECTURE_LIST(ARCHITECTURE)                                                            \
    ARCHITECTURE(clip_architecture)                                                                \
    ARCHITECTURE(clip_vision_architecture)                                                         \
    ARCHITECTURE(clip_text_architecture)                                                           \
    ARCHITECTURE(metaclip2_architecture)                                                           \
    ARCHITECTURE(chinese_clip_architecture)                                                        \
    ARCHITECTURE(altclip_architecture)                                                             \
    ARCHITECTURE(open_clip_architecture)                                                           \
    ARCHITECTURE(clipseg_architecture)                                                             \
    ARCHITECTURE(owlvit_architecture)                                                              \
    ARCHITECTURE(owlv2_architecture)                                                               \
    ARCHITECTURE(siglip_architecture)                                                              \
    ARCHITECTURE(siglip2_architecture)                                                             \
    ARCHITECTURE(blip_caption_architecture)                                                        \
    ARCHITECTURE(blip_vqa_architecture)                                                            \
    ARCHITECTURE(blip_match_architecture)                                                          \
    ARCHITECTURE(blip2_match_architecture)                                                         \
    ARCHITECTURE(vision_encoder_decoder_architecture)                                              \
    ARCHITECTURE(git_architecture)                                                                 \
    ARCHITECTURE(idefics_architecture)                                                             \
    ARCHITECTURE(qwen2_5_vl_architecture)                                                          \
    ARCHITECTURE(magic_architecture)                                                               \
    ARCHITECTURE(paligemma_architecture)                                                           \
    ARCHITECTURE(vilt_vqa_architecture)                                                            \
    ARCHITECTURE(vilt_match_architecture)                                                          \
    ARCHITECTURE(vilt_nlvr2_architecture)                                                          \
    ARCHITECTURE(vilt_fill_architecture)

#define ARCHITECTURE_EXTERN(symbol) extern const struct architecture symbol;
ARCHITECTURE_LIST(ARCHITECTURE_EXTERN)
#undef ARCHITECTURE_EXTERN

static const struct architecture *const architectures[] = {
#define ARCHITECTURE_ROW(symbol) &symbol,
    ARCHITECTURE_LIST(ARCHITECTURE_ROW)
#undef ARCHITECTURE_ROW
};

const struct architecture *architecture_at(size_t i)
{
    return i < ARRAY_LENGTH(architectures) ? architectures[i] : NULL;
}

const struct architecture *architecture_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(architectures); i++)
        if (strcmp(architectures[i]->name, name) == 0)
            return architectures[i];
    return NULL;
}

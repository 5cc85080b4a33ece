/*
 * kernel_conv.c: one block of y = activation(conv(x) + bias + residual) in f32, over weights that
 * conv2d_prepare() laid out (conv.c). Outputs lie in the lanes and inputs are broadcast, so that
 * pictures are read where they lie and results leave channels-last: nothing is transposed.
 *
 * conv_block      any kernel: for each of its pixels, the rows' pointers into the picture (or to
 *                 zeros outside of it); the sums stay in registers over all of them.
 * winograd_block  3 × 3, stride 1: F(2 × 2, 3 × 3) of Lavin and Gray ("Fast Algorithms for
 *                 Convolutional Neural Networks", 2015). 4 × 4 pixels make 2 × 2 results with 16
 *                 products a channel rather than 36. All its factors are 1 or 1/2, so that it is
 *                 as exact as the sum itself.
 */
#include "core/nn/kernel_isa.h"
#include "core/nn/vec.h"

enum { BLOCK_VECS = CONV_OUT / LANES };

/* Blocks of CONV_OUT outputs that a tile takes at most, and its height for each number of them: as
 * many accumulators as registers allow. */
#if defined(__AVX512F__)
enum { PANEL_BLOCKS = 4, HEIGHT_1 = 12, HEIGHT_2 = 12, HEIGHT_3 = 8, HEIGHT_4 = 6 };
#else
enum { PANEL_BLOCKS = 1, HEIGHT_1 = LANES == 8 || MANY_REGISTERS ? 6 : 2 };
#endif
enum { PANEL = PANEL_BLOCKS * CONV_OUT };

/* ---- tiles ----------------------------------------------------------------------------------- */

/* out[n][PANEL] = the sum over p < n_parts and k < n_in of rows[p · part_step + n][k] · w[p · n_in
 * + k], for n < n_valid <= tile, where w holds CONV_OUT outputs a step and the next block's are
 * w_block further. Rows past n_valid are not read. */
#define TILE_STEP(tile, vecs, at)                                                                  \
    do {                                                                                           \
        vec lanes[vecs];                                                                           \
        _Pragma("GCC unroll 4") for (size_t v = 0; v < vecs; v++) lanes[v] =                       \
            vec_load(w + v / BLOCK_VECS * w_block + v % BLOCK_VECS * LANES + ((at)-k) * CONV_OUT); \
        _Pragma("GCC unroll 12") for (int n = 0; n < tile; n++)                                    \
        {                                                                                          \
            float value = x[n][at];                                                                \
            _Pragma("GCC unroll 4") for (size_t v = 0; v < vecs; v++) sums[n][v] +=                \
                value * lanes[v];                                                                  \
        }                                                                                          \
    } while (0)
#define DEFINE_TILE(name, tile, blocks)                                                            \
    static void name(const float *const *rows, size_t part_step, size_t n_parts, size_t n_valid,   \
                     size_t n_in, const float *w, size_t w_block, float *out)                      \
    {                                                                                              \
        vec sums[tile][(blocks)*BLOCK_VECS];                                                       \
        _Pragma("GCC unroll 12") for (size_t n = 0; n < tile; n++)                                 \
            _Pragma("GCC unroll 4") for (size_t v = 0; v < (blocks)*BLOCK_VECS; v++) sums[n][v] =  \
                (vec){0};                                                                          \
        for (size_t p = 0; p < n_parts; p++, rows += part_step) {                                  \
            const float *x[tile];                                                                  \
            _Pragma("GCC unroll 12") for (size_t n = 0; n < tile; n++) x[n] =                      \
                rows[n < n_valid ? n : n_valid - 1];                                               \
            size_t k = 0;                                                                          \
            for (; k + 4 <= n_in; k += 4, w += 4 * CONV_OUT)                                       \
                _Pragma("GCC unroll 4") for (size_t u = 0; u < 4; u++)                             \
                    TILE_STEP(tile, (blocks)*BLOCK_VECS, k + u);                                   \
            for (; k < n_in; k++, w += CONV_OUT)                                                   \
                TILE_STEP(tile, (blocks)*BLOCK_VECS, k);                                           \
        }                                                                                          \
        _Pragma("GCC unroll 12") for (size_t n = 0; n < tile; n++)                                 \
        {                                                                                          \
            if (n < n_valid)                                                                       \
                _Pragma("GCC unroll 4") for (size_t v = 0; v < (blocks)*BLOCK_VECS; v++)           \
                    vec_store(out + n * PANEL + v * LANES, sums[n][v]);                            \
        }                                                                                          \
    }

DEFINE_TILE(tile_1, HEIGHT_1, 1)
#if defined(__AVX512F__)
DEFINE_TILE(tile_2, HEIGHT_2, 2)
DEFINE_TILE(tile_3, HEIGHT_3, 3)
DEFINE_TILE(tile_4, HEIGHT_4, 4)
#endif

static const struct {
    size_t height;
    void (*run)(const float *const *, size_t, size_t, size_t, size_t, const float *, size_t,
                float *);
} tiles[] = {
    {0, NULL},          {HEIGHT_1, tile_1},
#if defined(__AVX512F__)
    {HEIGHT_2, tile_2}, {HEIGHT_3, tile_3}, {HEIGHT_4, tile_4},
#endif
};

/* ---- what follows the product ---------------------------------------------------------------- */

/* Finishes the sums of one pixel of results, outputs [out, out + n) with n <= PANEL. */
static void store_pixel(const struct conv_job *job, const float *sums, size_t pixel, size_t out,
                        size_t n)
{
    const float *bias = job->bias + out;
    const float *plus = job->residual ? job->residual + pixel * job->n_out + out : NULL;
    float *to = job->y + pixel * job->n_out + out, other[PANEL];
    bool is_other = job->activation != ACTIVATION_NONE && job->activation != ACTIVATION_RELU;
    float *at = is_other ? other : to;
    for (size_t c = 0; c < n; c += LANES) {
        size_t part = n - c;
        vec sum = vec_load(sums + c);
        if (part >= LANES) {
            sum += vec_load(bias + c);
            if (plus)
                sum += vec_load(plus + c);
            vec_store(at + c, job->activation == ACTIVATION_RELU ? vec_relu(sum) : sum);
        } else {
            sum += vec_load_part(bias + c, part);
            if (plus)
                sum += vec_load_part(plus + c, part);
            vec_store_part(at + c, job->activation == ACTIVATION_RELU ? vec_relu(sum) : sum, part);
        }
    }
    if (is_other) {
        KERNEL(activate)(job->activation, other, n);
        memcpy(to, other, n * sizeof *to);
    }
}

/* ---- any kernel ------------------------------------------------------------------------------ */

/* rows[kernel pixel][n_rows]: where the inputs of output pixels [row, row + n_rows) are. */
static void find_rows(const struct conv_job *job, size_t row, size_t n_rows, const float **rows)
{
    const struct conv_rows *conv = &job->rows;
    size_t pixels = conv->out_height * conv->out_width, picture = conv->height * conv->width;
    size_t oy = row % pixels / conv->out_width, ox = row % conv->out_width;
    const float *x = job->x + row / pixels * picture * conv->channels;
    for (size_t i = 0; i < n_rows; i++) {
        size_t top = oy * conv->stride - conv->padding; /* may wrap, as may what follows */
        for (size_t ky = 0, p = i; ky < conv->kernel_height; ky++) {
            size_t left = ox * conv->stride - conv->padding;
            for (size_t kx = 0; kx < conv->kernel_width; kx++, p += n_rows)
                rows[p] = top + ky < conv->height && left + kx < conv->width
                              ? x + ((top + ky) * conv->width + left + kx) * conv->channels
                              : job->zeros;
        }
        if (++ox == conv->out_width) {
            ox = 0;
            if (++oy == conv->out_height) {
                oy = 0;
                x += picture * conv->channels;
            }
        }
    }
}

bool KERNEL(conv_block)(const struct conv_job *job, size_t row, size_t n_rows, size_t out,
                        size_t n_out)
{
    struct scratch *scratch = scratch_of_thread();
    if (!scratch)
        return false;
    const float **rows = (const float **)(void *)scratch->floats;
    if (scratch->job_id != job->id || scratch->row != row) {
        scratch->job_id = job->id;
        scratch->row = row;
        find_rows(job, row, n_rows, rows);
    }
    size_t n_parts = job->rows.kernel_height * job->rows.kernel_width, n_in = job->rows.channels;
    size_t block = n_parts * n_in * CONV_OUT;
    for (size_t end = out + n_out; out < end; out += PANEL) {
        size_t n = min_size(PANEL, end - out), blocks = (n + CONV_OUT - 1) / CONV_OUT;
        const float *w = job->weight + out / CONV_OUT * block;
        _Alignas(64) float sums[12 * PANEL];
        for (size_t r = 0; r < n_rows; r += tiles[blocks].height) {
            size_t valid = min_size(tiles[blocks].height, n_rows - r);
            tiles[blocks].run(rows + r, n_rows, n_parts, valid, n_in, w, block, sums);
            for (size_t i = 0; i < valid; i++)
                store_pixel(job, sums + i * PANEL, row + r + i, out, n);
        }
    }
    return true;
}

/* ---- 3 x 3 ----------------------------------------------------------------------------------- */

enum { POINTS = 16, GROUP = 48 /* patches whose sums are kept at once */ };

/* The patches [first, first + n), 4 × 4 pixels each, to turned[point][patch][channels]: Bᵀ d B. */
static void turn_patches(const struct conv_job *job, size_t first, size_t n, float *turned)
{
    const struct conv_rows *conv = &job->rows;
    size_t across = (conv->out_width + 1) / 2, down = (conv->out_height + 1) / 2;
    size_t channels = conv->channels, point = n * channels;
    for (size_t i = 0; i < n; i++, turned += channels) {
        size_t patch = (first + i) % (across * down);
        size_t top = patch / across * 2 - conv->padding, left = patch % across * 2 - conv->padding;
        const float *x =
            job->x + (first + i) / (across * down) * conv->height * conv->width * channels;
        const float *pixels[4][4];
        for (size_t y = 0; y < 4; y++)
            for (size_t at = 0; at < 4; at++)
                pixels[y][at] = top + y < conv->height && left + at < conv->width
                                    ? x + ((top + y) * conv->width + left + at) * channels
                                    : job->zeros;
        for (size_t c = 0; c < channels; c += LANES) {
            size_t part = channels - c;
            vec d[4][4];
#pragma GCC unroll 4
            for (int column = 0; column < 4; column++) {
                vec p[4];
#pragma GCC unroll 4
                for (int y = 0; y < 4; y++)
                    p[y] = part >= LANES ? vec_load(pixels[y][column] + c)
                                         : vec_load_part(pixels[y][column] + c, part);
                d[0][column] = p[0] - p[2];
                d[1][column] = p[1] + p[2];
                d[2][column] = p[2] - p[1];
                d[3][column] = p[1] - p[3];
            }
#pragma GCC unroll 4
            for (size_t y = 0; y < 4; y++) {
                vec v[4] = {d[y][0] - d[y][2], d[y][1] + d[y][2], d[y][2] - d[y][1],
                            d[y][1] - d[y][3]};
#pragma GCC unroll 4
                for (size_t at = 0; at < 4; at++) {
                    float *to = turned + (4 * y + at) * point + c;
                    if (part >= LANES)
                        vec_store(to, v[at]);
                    else
                        vec_store_part(to, v[at], part);
                }
            }
        }
    }
}

/* Aᵀ m A: the sums of patch `i` of a group, products[point][GROUP][PANEL], to pixels of results. */
static void store_patch(const struct conv_job *job, const float *products, size_t patch, size_t out,
                        size_t n)
{
    const struct conv_rows *conv = &job->rows;
    size_t across = (conv->out_width + 1) / 2, down = (conv->out_height + 1) / 2;
    size_t top = patch % (across * down) / across * 2, left = patch % across * 2;
    size_t pixel = (patch / (across * down) * conv->out_height + top) * conv->out_width + left;
    _Alignas(64) float sums[4][PANEL];
    for (size_t c = 0; c < n; c += LANES) {
        vec m[2][4];
#pragma GCC unroll 4
        for (size_t at = 0; at < 4; at++) {
            vec p[4];
#pragma GCC unroll 4
            for (size_t y = 0; y < 4; y++)
                p[y] = vec_load(products + (4 * y + at) * GROUP * PANEL + c);
            m[0][at] = p[0] + p[1] + p[2];
            m[1][at] = p[1] - p[2] - p[3];
        }
#pragma GCC unroll 2
        for (size_t y = 0; y < 2; y++) {
            vec_store(sums[2 * y] + c, m[y][0] + m[y][1] + m[y][2]);
            vec_store(sums[2 * y + 1] + c, m[y][1] - m[y][2] - m[y][3]);
        }
    }
    for (size_t y = 0; y < 2 && top + y < conv->out_height; y++)
        for (size_t at = 0; at < 2 && left + at < conv->out_width; at++)
            store_pixel(job, sums[2 * y + at], pixel + y * conv->out_width + at, out, n);
}

/* Rows are patches of 2 × 2 results here. */
bool KERNEL(winograd_block)(const struct conv_job *job, size_t row, size_t n_rows, size_t out,
                            size_t n_out)
{
    struct scratch *scratch = scratch_of_thread();
    if (!scratch)
        return false;
    float *products = scratch->floats, *turned = products + POINTS * GROUP * PANEL;
    if (scratch->job_id != job->id || scratch->row != row) {
        scratch->job_id = job->id;
        scratch->row = row;
        turn_patches(job, row, n_rows, turned);
    }
    size_t n_in = job->rows.channels, block = POINTS * n_in * CONV_OUT;
    for (size_t end = out + n_out; out < end; out += PANEL) {
        size_t n = min_size(PANEL, end - out), blocks = (n + CONV_OUT - 1) / CONV_OUT;
        for (size_t first = 0; first < n_rows; first += GROUP) {
            size_t group = min_size(GROUP, n_rows - first), height = tiles[blocks].height;
            for (size_t point = 0; point < POINTS; point++) {
                const float *w = job->weight + out / CONV_OUT * block + point * n_in * CONV_OUT;
                const float *rows[GROUP];
                for (size_t i = 0; i < group; i++)
                    rows[i] = turned + (point * n_rows + first + i) * n_in;
                for (size_t i = 0; i < group; i += height)
                    tiles[blocks].run(rows + i, 0, 1, min_size(height, group - i), n_in, w, block,
                                      products + (point * GROUP + i) * PANEL);
            }
            for (size_t i = 0; i < group; i++)
                store_patch(job, products + i * PANEL, row + first + i, out, n);
        }
    }
    return true;
}

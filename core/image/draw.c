/*
 * draw.c: see draw.h.
 */
#include "core/image/draw.h"

#include <math.h>
#include <string.h>

static const uint8_t colours[IMAGE_COLOURS][3] = {
    {230, 60, 50}, {40, 110, 230}, {50, 170, 70},  {250, 170, 20}, {150, 70, 190},
    {0, 180, 190}, {240, 90, 170}, {130, 200, 40}, {140, 90, 50},  {90, 100, 120},
};

static size_t clamp(double at, size_t max)
{
    return !(at > 0) ? 0 : at >= (double)max ? max : (size_t)at;
}

static void fill(struct image *image, size_t x0, size_t y0, size_t x1, size_t y1,
                 const uint8_t colour[3])
{
    for (size_t y = y0; y < y1; y++)
        for (size_t x = x0; x < x1; x++)
            memcpy(image->rgb + 3 * (y * image->width + x), colour, 3);
}

/* The ring of `thickness` pixels inside x0 … x1, y0 … y1. */
static void frame(struct image *image, size_t x0, size_t y0, size_t x1, size_t y1, size_t thickness,
                  const uint8_t colour[3])
{
    size_t across = x1 - x0 < 2 * thickness ? (x1 - x0 + 1) / 2 : thickness;
    size_t down = y1 - y0 < 2 * thickness ? (y1 - y0 + 1) / 2 : thickness;
    fill(image, x0, y0, x1, y0 + down, colour);
    fill(image, x0, y1 - down, x1, y1, colour);
    fill(image, x0, y0, x0 + across, y1, colour);
    fill(image, x1 - across, y0, x1, y1, colour);
}

void image_draw_box(struct image *image, const double box[4], size_t colour)
{
    static const uint8_t dark[3] = {20, 20, 20};
    size_t shorter = image->width < image->height ? image->width : image->height;
    size_t thickness = shorter / 150 < 1 ? 1 : shorter / 150, line = shorter >= 150 ? 1 : 0;
    size_t x0 = clamp(floor(box[0]), image->width), x1 = clamp(ceil(box[2]), image->width);
    size_t y0 = clamp(floor(box[1]), image->height), y1 = clamp(ceil(box[3]), image->height);
    if (x1 <= x0 || y1 <= y0)
        return;
    frame(image, x0, y0, x1, y1, thickness + 2 * line, dark);
    if (x1 - x0 > 2 * line && y1 - y0 > 2 * line)
        frame(image, x0 + line, y0 + line, x1 - line, y1 - line, thickness,
              colours[colour % IMAGE_COLOURS]);
}

void image_draw_mask(struct image *image, const uint8_t *mask, size_t x, size_t y, size_t width,
                     size_t height, size_t colour)
{
    const uint8_t *paint = colours[colour % IMAGE_COLOURS];
    for (size_t row = 0; row < height && y + row < image->height; row++)
        for (size_t column = 0; column < width && x + column < image->width; column++) {
            unsigned cover =
                mask[row * width + column] * 6u / 10u; /* what is below stays visible */
            uint8_t *pixel = image->rgb + 3 * ((y + row) * image->width + x + column);
            for (size_t c = 0; c < 3; c++)
                pixel[c] = (uint8_t)((pixel[c] * (255 - cover) + paint[c] * cover) / 255);
        }
}

/* Vectors of LANES numbers, and their way between pixels, which lie together, and planes, where queries or keys do.
 *
 * Letters: B batch, N heads, D channels of one head, C = N · D, H and W of the map, K window, s stride. Maps are channels_last:
 * a pixel is `pitch` floats, of which a head reads D that lie together. A vector holds LANES queries, one in each lane.
 */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define HALF 8
#define OUTSIDE -1e30f

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int ints __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float half __attribute__((vector_size(4 * HALF)));
typedef float loose_half __attribute__((vector_size(4 * HALF), aligned(4), may_alias));

#define NOT_EVERYWHERE __attribute__((unused)) /* not all files that include this need it */
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return (vec) * (const loose *)from; }
INLINE void store(float *to, vec x) { *(loose *)to = (loose)x; }
INLINE vec all(float x) { return x - (vec){0}; }
#ifdef __AVX512F__ /* which compilers do not see in the comparison below */
#include <immintrin.h>
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
#else
INLINE vec larger(vec a, vec b) {
    ints first = a > b;
    return (vec)((first & (ints)a) | (~first & (ints)b));
}
#endif

/* exp of what is not above 0, to a unit or two in the last place; below -87 it is that of -87, which is as good as 0. */
INLINE vec exponential(vec x) {
    x = larger(x, all(-87.0f));
    vec shifted = x * 1.44269504f + 12582912.0f; /* adding 1.5 · 2²³ rounds to an integer in the low bits */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return (vec)((ints)y + ((ints)shifted << 23));
}

/* Zeroed: lanes that are thrown away must hold numbers all the same. */
NOT_EVERYWHERE static float *scratch(size_t floats) {
    void *got = NULL;
    size_t bytes = (floats + 4 * LANES) * sizeof(float);
    return posix_memalign(&got, 64, bytes) ? NULL : memset(got, 0, bytes);
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* GCC has clang's from version 12 on */
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif

/* rows[i][j] to rows[j][i]: blocks of 8, 4, 2 and 1 change places. The numbers are the places that the upper rows are taken from,
 * s before those of the lower rows. */
#define SWAP(s, A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P)                                                                \
    for (int i = 0; i < LANES; i++)                                                                                            \
        if (!(i & s)) {                                                                                                        \
            vec a = rows[i], b = rows[i + s];                                                                                  \
            rows[i] = SHUFFLE(a, b, A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P);                                           \
            rows[i + s] = SHUFFLE(                                                                                             \
                a, b, A + s, B + s, C + s, D + s, E + s, F + s, G + s, H + s, I + s, J + s, K + s, L + s, M + s, N + s, O + s, \
                P + s                                                                                                          \
            );                                                                                                                 \
        }

INLINE void transpose(vec *rows) {
    SWAP(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
    SWAP(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
    SWAP(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
    SWAP(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
}

INLINE vec load_some(const float *from, int count) {
    vec x = all(0.0f);
    if (from) __builtin_memcpy(&x, from, count * sizeof(float));
    return x;
}

/* As above, of a number that is only known when it runs. */
INLINE vec load_left(const float *from, int count) {
    vec x = all(0.0f);
    for (int i = 0; i < count; i++) x[i] = from[i];
    return x;
}

/* `count` channels of LANES pixels, NULL for none, to as many planes; `less` is taken off where it is not NULL. */
INLINE void to_planes_of(
    int count, const float *const *pixels, const float *const *less, long skip, float scale, float *planes, long apart
) {
    vec rows[LANES];
    for (int i = 0; i < LANES; i++) {
        rows[i] = load_some(pixels[i] ? pixels[i] + skip : NULL, count);
        if (less && pixels[i]) rows[i] -= load_some(less[i] + skip, count);
    }
    transpose(rows);
    for (int d = 0; d < count; d++) store(planes + d * apart, rows[d] * scale);
}

/* The way back: the pixels become, or get more by, what the planes hold. */
INLINE void from_planes_of(int count, float *const *pixels, long skip, float scale, int add, const float *planes, long apart) {
    vec rows[LANES];
    for (int d = 0; d < LANES; d++) rows[d] = d < count ? load(planes + d * apart) * scale : all(0.0f);
    transpose(rows);
    for (int i = 0; i < LANES; i++) {
        if (!pixels[i]) continue;
        if (add) rows[i] += load_some(pixels[i] + skip, count);
        __builtin_memcpy(pixels[i] + skip, &rows[i], count * sizeof(float));
    }
}

NOT_EVERYWHERE static void
to_planes(int depth, const float *const *pixels, const float *const *less, float scale, float *planes, long apart) {
    int d = 0;
    for (; d + 16 <= depth; d += 16) to_planes_of(16, pixels, less, d, scale, planes + d * apart, apart);
    for (; d + 4 <= depth; d += 4) to_planes_of(4, pixels, less, d, scale, planes + d * apart, apart);
    for (; d < depth; d++) to_planes_of(1, pixels, less, d, scale, planes + d * apart, apart);
}

NOT_EVERYWHERE static void from_planes(int depth, float *const *pixels, float scale, int add, const float *planes, long apart) {
    int d = 0;
    for (; d + 16 <= depth; d += 16) from_planes_of(16, pixels, d, scale, add, planes + d * apart, apart);
    for (; d + 4 <= depth; d += 4) from_planes_of(4, pixels, d, scale, add, planes + d * apart, apart);
    for (; d < depth; d++) from_planes_of(1, pixels, d, scale, add, planes + d * apart, apart);
}

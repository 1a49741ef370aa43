/* Attention on the CPU, in float32: over the K×K neighbours of every pixel (slide_…), and of every tile of queries to a tile of
 * keys (tile_…); and mixtures of normalised maps (moments_…, combine_…). Of an attention only the logarithm of each softmax's sum is kept for the backward, as in FlashAttention (Dao et al. 2022).
 *
 * Letters: B batch, N heads, D channels of one head, C = N · D, H and W of the map, K window, s stride. Maps are channels_last:
 * a pixel is `pitch` floats, of which a head reads D that lie together. A vector holds LANES queries, one in each lane.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define HALF 8
#define DEEP 8    /* channels that one pass keeps in registers */
#define MOST 4    /* vectors of queries in a block */
#define BLOCK 64  /* keys in a block */
#define OUTSIDE -1e30f

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int ints __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float half __attribute__((vector_size(4 * HALF)));
typedef float loose_half __attribute__((vector_size(4 * HALF), aligned(4), may_alias));

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
static float *scratch(size_t floats) {
    void *got = NULL;
    size_t bytes = (floats + 4 * LANES) * sizeof(float);
    return posix_memalign(&got, 64, bytes) ? NULL : memset(got, 0, bytes);
}

/* rows[i][j] to rows[j][i]: blocks of 8, 4, 2 and 1 change places. */
#define SWAP(size, ...)                                                          \
    for (int i = 0; i < LANES; i++)                                              \
        if (!(i & size)) {                                                       \
            const ints upper = {__VA_ARGS__}, lower = upper + size;              \
            vec a = rows[i], b = rows[i + size];                                 \
            rows[i] = __builtin_shuffle(a, b, upper);                            \
            rows[i + size] = __builtin_shuffle(a, b, lower);                     \
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
INLINE void to_planes_of(int count, const float *const *pixels, const float *const *less, long skip, float scale, float *planes, long apart) {
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

static void to_planes(int depth, const float *const *pixels, const float *const *less, float scale, float *planes, long apart) {
    int d = 0;
    for (; d + 16 <= depth; d += 16) to_planes_of(16, pixels, less, d, scale, planes + d * apart, apart);
    for (; d + 4 <= depth; d += 4) to_planes_of(4, pixels, less, d, scale, planes + d * apart, apart);
    for (; d < depth; d++) to_planes_of(1, pixels, less, d, scale, planes + d * apart, apart);
}

static void from_planes(int depth, float *const *pixels, float scale, int add, const float *planes, long apart) {
    int d = 0;
    for (; d + 16 <= depth; d += 16) from_planes_of(16, pixels, d, scale, add, planes + d * apart, apart);
    for (; d + 4 <= depth; d += 4) from_planes_of(4, pixels, d, scale, add, planes + d * apart, apart);
    for (; d < depth; d++) from_planes_of(1, pixels, d, scale, add, planes + d * apart, apart);
}

/* ---- Sliding windows -----------------------------------------------------------------------------------------------------
 *
 * The keys of a band of query rows lie padded and planar, (D, phases · plane): a neighbour of LANES queries that follow each
 * other is LANES keys that follow each other, whichever neighbour it is. With a stride, every phase of the padded map has
 * a plane of its own, so that this holds too. Between two rows of queries lie columns that are no queries: their lanes are
 * computed and thrown away.
 */
typedef struct {
    int batch, heads, depth, height, width, window, stride, dilation;
    int out_height, out_width;
    const int *rows, *columns; /* the key at each padded position, or -1 for none */
    int padded_columns;
} slide;

typedef struct {
    int first, queries;          /* rows of queries */
    int padded;                  /* rows of keys */
    int pitch;                   /* of a plane */
    long plane, keys;            /* floats of a plane; of the planes of one channel */
    long run;                    /* positions of queries: rows · pitch */
} band;

static band band_of(const slide *of, int first, int rows) {
    band b;
    b.first = first;
    b.queries = first + rows > of->out_height ? of->out_height - first : rows;
    b.pitch = (of->padded_columns + of->stride - 1) / of->stride;
    b.padded = (b.queries - 1) * of->stride + (of->window - 1) * of->dilation + 1;
    b.plane = (long)((b.padded + of->stride - 1) / of->stride) * b.pitch + LANES;
    b.keys = b.plane * of->stride * of->stride + LANES;
    b.run = (long)b.queries * b.pitch;
    return b;
}

static int band_rows(const slide *of) { /* so many that the planes of keys and values stay in the second cache */
    int rows = 65536 / ((of->padded_columns + 1) * of->stride * of->depth) - (of->window - 1) * of->dilation / of->stride;
    if (rows < 4) rows = 4;
    return rows < of->out_height ? rows : of->out_height;
}

static void offsets_of(const slide *of, const band *b, long *offsets) {
    for (int i = 0; i < of->window; i++)
        for (int j = 0; j < of->window; j++) {
            int down = i * of->dilation, right = j * of->dilation, s = of->stride;
            offsets[i * of->window + j] = ((down % s) * s + right % s) * b->plane + (long)(down / s) * b->pitch + right / s;
        }
}

/* The key at position j of a row of a phase's plane, NULL for none. */
INLINE long key_at(const slide *of, int y, int right, int j) {
    int c = right + j * of->stride;
    int x = c < of->padded_columns ? of->columns[c] : -1;
    return y < 0 || x < 0 ? -1 : (long)y * of->width + x;
}

/* From pixels to planes; `minus` (H · W, D) is taken off where it is not NULL. Rows go upwards: a vector may write past its row,
 * into the next one, which comes later. */
static void spread(const slide *of, const band *b, const float *from, long pitch, const float *minus, float *planes) {
    int s = of->stride;
    const float *pixels[LANES], *less[LANES];
    for (int r = 0; r < b->padded; r++)
        for (int right = 0; right < s; right++)
            for (int j = 0; j < b->pitch; j += LANES) {
                for (int i = 0; i < LANES; i++) {
                    long key = j + i < b->pitch ? key_at(of, of->rows[b->first * s + r], right, j + i) : -1;
                    pixels[i] = key < 0 ? NULL : from + key * pitch;
                    less[i] = key < 0 || !minus ? NULL : minus + key * of->depth;
                }
                float *to = planes + ((r % s) * s + right) * b->plane + (long)(r / s) * b->pitch + j;
                to_planes(of->depth, pixels, minus ? less : NULL, 1.0f, to, b->keys);
            }
}

/* The way back, for gradients: adds what the planes hold to the pixels that it came from. */
static void gather(const slide *of, const band *b, const float *planes, float *to, long pitch) {
    int s = of->stride;
    float *pixels[LANES];
    for (int r = 0; r < b->padded; r++)
        for (int right = 0; right < s; right++)
            for (int j = 0; j < b->pitch; j += LANES) {
                for (int i = 0; i < LANES; i++) {
                    long key = j + i < b->pitch ? key_at(of, of->rows[b->first * s + r], right, j + i) : -1;
                    pixels[i] = key < 0 ? NULL : to + key * pitch;
                }
                const float *from = planes + ((r % s) * s + right) * b->plane + (long)(r / s) * b->pitch + j;
                from_planes(of->depth, pixels, 1.0f, 1, from, b->keys);
            }
}

/* 0 where a neighbour is inside the map, and far below every logit where it is not; NULL where all are inside. */
static float *outside_of(const slide *of, const band *b, float *planes) {
    int s = of->stride, any = 0;
    memset(planes, 0, sizeof(float) * b->keys);
    for (int r = 0; r < b->padded; r++)
        for (int c = 0; c < of->padded_columns; c++)
            if (of->rows[b->first * s + r] < 0 || of->columns[c] < 0) {
                planes[((r % s) * s + c % s) * b->plane + (long)(r / s) * b->pitch + c / s] = OUTSIDE;
                any = 1;
            }
    return any ? planes : NULL;
}

/* Queries, or what belongs to them, of every step-th pixel: planar (D, run). What is no query is 0, and so gives no gradient. */
static void spread_queries(
    const slide *of, const band *b, const float *from, long pitch, int width, int step, float scale, long run, float *planes
) {
    const float *pixels[LANES];
    for (int y = 0; y < b->queries; y++)
        for (int x = 0; x < b->pitch; x += LANES) {
            for (int i = 0; i < LANES; i++)
                pixels[i] = x + i < of->out_width ? from + ((long)(b->first + y) * width + x + i) * step * pitch : NULL;
            to_planes(of->depth, pixels, NULL, scale, planes + (long)y * b->pitch + x, run);
        }
    for (int d = 0; d < of->depth; d++) store(planes + d * run + b->run, all(0.0f)); /* the last band may be a short one */
}

static void gather_queries(
    const slide *of, const band *b, const float *planes, long run, float scale, int width, int step, float *to, long pitch
) {
    float *pixels[LANES];
    for (int y = 0; y < b->queries; y++)
        for (int x = 0; x < of->out_width; x += LANES) {
            for (int i = 0; i < LANES; i++)
                pixels[i] = x + i < of->out_width ? to + ((long)(b->first + y) * width + x + i) * step * pitch : NULL;
            from_planes(of->depth, pixels, scale, 0, planes + (long)y * b->pitch + x, run);
        }
}

/* out[o] += Σ_d q_d · k_d at offset o, of `deep` channels. */
INLINE void products(int deep, const float *q, long run, const float *k, long keys, const long *offsets, int taps, vec *out) {
    vec mine[DEEP];
    for (int d = 0; d < deep; d++) mine[d] = load(q + d * run);
    for (int o = 0; o < taps; o++) {
        const float *at = k + offsets[o];
        vec even = out[o], odd = all(0.0f);
        for (int d = 0; d < deep; d += 2) {
            even += mine[d] * load(at + d * keys);
            if (d + 1 < deep) odd += mine[d + 1] * load(at + (d + 1) * keys);
        }
        out[o] = even + odd;
    }
}

/* out_d = Σ_o weight[o] · v_d at offset o, of `deep` channels. */
INLINE void sums(int deep, const vec *weights, const float *v, long keys, const long *offsets, int taps, float *out, long run) {
    vec sum[DEEP];
    for (int d = 0; d < deep; d++) sum[d] = all(0.0f);
    for (int o = 0; o < taps; o++) {
        const float *at = v + offsets[o];
        for (int d = 0; d < deep; d++) sum[d] += weights[o] * load(at + d * keys);
    }
    for (int d = 0; d < deep; d++) store(out + d * run, sum[d]);
}

/* k_d at offset o += weight[o] · q_d, of `deep` channels. */
INLINE void scatter(int deep, const vec *weights, const float *q, long run, float *k, long keys, const long *offsets, int taps) {
    vec mine[DEEP];
    for (int d = 0; d < deep; d++) mine[d] = load(q + d * run);
    for (int o = 0; o < taps; o++) {
        float *at = k + offsets[o];
        for (int d = 0; d < deep; d++) store(at + d * keys, load(at + d * keys) + weights[o] * mine[d]);
    }
}

#define IN_DEPTH(call_8, call_1)                       \
    {                                                  \
        int d = 0;                                     \
        for (; d + DEEP <= depth; d += DEEP) call_8;   \
        for (; d < depth; d++) call_1;                 \
    }

INLINE void logits(
    const slide *of, const band *b, const float *q, long run, const float *k, const float *outside, const float *table, int head,
    const long *offsets, long i, vec *s
) {
    int depth = of->depth, taps = of->window * of->window;
    for (int o = 0; o < taps; o++) {
        s[o] = outside ? load(outside + i + offsets[o]) : all(0.0f);
        if (table) s[o] += table[(long)o * of->heads + head];
    }
    IN_DEPTH(products(DEEP, q + d * run + i, run, k + d * b->keys + i, b->keys, offsets, taps, s),
             products(1, q + d * run + i, run, k + d * b->keys + i, b->keys, offsets, taps, s))
}

/* maps (B, H, W, 3C): q, k, v. p (H · W, D) or NULL. table (K², N) or NULL. out (B, Ho, Wo, C). lse (B, N, Ho, Wo). */
int slide_forward(const slide *of, const float *maps, const float *p, const float *table, float *out, float *lse, int threads) {
    int depth = of->depth, heads = of->heads, taps = of->window * of->window, channels = heads * depth;
    int rows = band_rows(of), bands = (of->out_height + rows - 1) / rows, failed = 0;
    long pitch = 3L * channels, area = (long)of->height * of->width, out_area = (long)of->out_height * of->out_width;
    float scale = 1.0f / sqrtf((float)depth);
    band largest = band_of(of, 0, rows);
    long run = largest.run + LANES;
#pragma omp parallel num_threads(threads)
    {
        float *memory = scratch((2L * depth + 1) * largest.keys + 2L * depth * run + (long)taps * LANES);
        long *offsets = malloc(sizeof(long) * taps);
        if (!memory || !offsets) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            vec *s = (vec *)memory;
            float *k = memory + (long)taps * LANES, *v = k + depth * largest.keys, *border = v + depth * largest.keys;
            float *q = border + largest.keys, *result = q + depth * run;
#pragma omp for collapse(3) schedule(static)
            for (int image = 0; image < of->batch; image++)
                for (int head = 0; head < heads; head++)
                    for (int part = 0; part < bands; part++) {
                        band b = band_of(of, part * rows, rows);
                        const float *pixels = maps + image * area * pitch + head * depth;
                        offsets_of(of, &b, offsets);
                        spread_queries(of, &b, pixels, pitch, of->width, of->stride, scale, run, q);
                        spread(of, &b, pixels + channels, pitch, p, k);
                        spread(of, &b, pixels + 2 * channels, pitch, NULL, v);
                        const float *outside = outside_of(of, &b, border);
                        float *kept = lse + (image * heads + head) * out_area + (long)b.first * of->out_width;
                        for (long i = 0; i < b.run; i += LANES) {
                            logits(of, &b, q, run, k, outside, table, head, offsets, i, s);
                            vec most = s[0], sum = all(0.0f);
                            for (int o = 1; o < taps; o++) most = larger(most, s[o]);
                            for (int o = 0; o < taps; o++) sum += s[o] = exponential(s[o] - most);
                            vec share = 1.0f / sum;
                            for (int o = 0; o < taps; o++) s[o] *= share;
                            for (int lane = 0; lane < LANES; lane++) {
                                long y = (i + lane) / b.pitch, x = (i + lane) % b.pitch;
                                if (y < b.queries && x < of->out_width) kept[y * of->out_width + x] = most[lane] + logf(sum[lane]);
                            }
                            IN_DEPTH(sums(DEEP, s, v + d * b.keys + i, b.keys, offsets, taps, result + d * run + i, run),
                                     sums(1, s, v + d * b.keys + i, b.keys, offsets, taps, result + d * run + i, run))
                        }
                        gather_queries(of, &b, result, run, 1.0f, of->out_width, 1, out + image * out_area * channels + head * depth, channels);
                    }
        }
        free(memory);
        free(offsets);
    }
    return failed;
}

/* grad (B, H, W, 3C), all 0 before; grad_table (B, N, K²), all 0 before, or NULL; grad_out and out (B, Ho, Wo, C). */
int slide_backward(
    const slide *of, const float *maps, const float *p, const float *table, const float *out, const float *lse,
    const float *grad_out, float *grad, float *grad_table, int threads
) {
    int depth = of->depth, heads = of->heads, taps = of->window * of->window, channels = heads * depth;
    int rows = band_rows(of), bands = (of->out_height + rows - 1) / rows, failed = 0;
    long pitch = 3L * channels, area = (long)of->height * of->width, out_area = (long)of->out_height * of->out_width;
    float scale = 1.0f / sqrtf((float)depth);
    band largest = band_of(of, 0, rows);
    long run = largest.run + LANES;
#pragma omp parallel num_threads(threads)
    {
        float *memory = scratch((4L * depth + 1) * largest.keys + (3L * depth + 2) * run + 2L * taps * LANES);
        long *offsets = malloc(sizeof(long) * taps);
        if (!memory || !offsets) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            vec *s = (vec *)memory, *ds = s + taps;
            float *k = memory + 2L * taps * LANES, *v = k + depth * largest.keys;
            float *dk = v + depth * largest.keys, *dv = dk + depth * largest.keys, *border = dv + depth * largest.keys;
            float *q = border + largest.keys, *dout = q + depth * run, *dq = dout + depth * run;
            float *sums_kept = dq + depth * run, *delta = sums_kept + run;
#pragma omp for collapse(2) schedule(static)
            for (int image = 0; image < of->batch; image++)
                for (int head = 0; head < heads; head++)
                    for (int part = 0; part < bands; part++) {
                        band b = band_of(of, part * rows, rows);
                        const float *pixels = maps + image * area * pitch + head * depth;
                        const float *of_out = grad_out + image * out_area * channels + head * depth;
                        const float *mine = out + image * out_area * channels + head * depth;
                        float *to = grad + image * area * pitch + head * depth;
                        offsets_of(of, &b, offsets);
                        spread_queries(of, &b, pixels, pitch, of->width, of->stride, scale, run, q);
                        spread_queries(of, &b, of_out, channels, of->out_width, 1, 1.0f, run, dout);
                        spread(of, &b, pixels + channels, pitch, p, k);
                        spread(of, &b, pixels + 2 * channels, pitch, NULL, v);
                        memset(dk, 0, sizeof(float) * 2 * depth * largest.keys);
                        memset(sums_kept, 0, sizeof(float) * 2 * run);
                        const float *outside = outside_of(of, &b, border);
                        const float *kept = lse + (image * heads + head) * out_area;
                        for (int y = 0; y < b.queries; y++)
                            for (int x = 0; x < of->out_width; x++) {
                                long at = (long)(b.first + y) * of->out_width + x;
                                float sum = 0;
                                for (int d = 0; d < depth; d++) sum += of_out[at * channels + d] * mine[at * channels + d];
                                sums_kept[(long)y * b.pitch + x] = kept[at];
                                delta[(long)y * b.pitch + x] = sum;
                            }
                        for (long i = 0; i < b.run; i += LANES) {
                            logits(of, &b, q, run, k, outside, table, head, offsets, i, s);
                            vec sum = load(sums_kept + i), less = load(delta + i);
                            for (int o = 0; o < taps; o++) {
                                s[o] = exponential(s[o] - sum);
                                ds[o] = all(0.0f);
                            }
                            IN_DEPTH(products(DEEP, dout + d * run + i, run, v + d * b.keys + i, b.keys, offsets, taps, ds),
                                     products(1, dout + d * run + i, run, v + d * b.keys + i, b.keys, offsets, taps, ds))
                            for (int o = 0; o < taps; o++) ds[o] = s[o] * (ds[o] - less);
                            if (grad_table)
                                for (int o = 0; o < taps; o++) {
                                    float sum_of = 0;
                                    for (int lane = 0; lane < LANES; lane++) sum_of += ds[o][lane];
                                    grad_table[((long)image * heads + head) * taps + o] += sum_of;
                                }
                            IN_DEPTH(sums(DEEP, ds, k + d * b.keys + i, b.keys, offsets, taps, dq + d * run + i, run),
                                     sums(1, ds, k + d * b.keys + i, b.keys, offsets, taps, dq + d * run + i, run))
                            IN_DEPTH(scatter(DEEP, ds, q + d * run + i, run, dk + d * b.keys + i, b.keys, offsets, taps),
                                     scatter(1, ds, q + d * run + i, run, dk + d * b.keys + i, b.keys, offsets, taps))
                            IN_DEPTH(scatter(DEEP, s, dout + d * run + i, run, dv + d * b.keys + i, b.keys, offsets, taps),
                                     scatter(1, s, dout + d * run + i, run, dv + d * b.keys + i, b.keys, offsets, taps))
                        }
                        gather_queries(of, &b, dq, run, scale, of->width, of->stride, to, pitch);
                        gather(of, &b, dk, to + channels, pitch);
                        gather(of, &b, dv, to + 2 * channels, pitch);
                    }
        }
        free(memory);
        free(offsets);
    }
    return failed;
}

/* ---- Tiles ---------------------------------------------------------------------------------------------------------------
 *
 * Every query of a tile sees every key of the tile, but for what a mask takes away: windows, and the whole map as one tile.
 * Queries lie planar, keys in rows; blocks of MOST vectors of queries and BLOCK keys.
 */
typedef struct {
    int batch, heads, depth, tiles, queries, keys;
    int masks;                                     /* 0 for none, 1 for one of all tiles, or one for each */
    int lanes;                                     /* queries, rounded up to LANES */
    long q_pitch, q_area, kv_pitch, kv_area, out_area;
    const int *query_at, *key_at, *out_at;         /* (tiles, queries), (tiles, keys), (tiles, queries): pixels, -1 for none */
    const float *mask, *bias;                      /* (masks, keys, lanes); (N, keys, lanes), or NULL */
} tiling;

INLINE int padded_depth(const tiling *of) { return (of->depth + HALF - 1) / HALF * HALF; }

/* Keys, values, or whatever lies at pixels: (count, depth padded). */
static void take_rows(int depth, int deep, const int *at, int count, const float *from, long pitch, const float *minus, float scale, float *rows) {
    for (int i = 0; i < count; i++) {
        float *row = rows + (long)i * deep;
        if (at[i] < 0) {
            memset(row, 0, sizeof(float) * deep);
            continue;
        }
        const float *pixel = from + at[i] * pitch, *less = minus ? minus + (long)at[i] * depth : NULL;
        if (less)
            for (int d = 0; d < depth; d++) row[d] = pixel[d] - less[d];
        else
            for (int d = 0; d < depth; d++) row[d] = scale * pixel[d];
    }
}

static void add_rows(int depth, int deep, const int *at, int count, const float *rows, float *to, long pitch) {
    for (int i = 0; i < count; i++)
        if (at[i] >= 0)
            for (int d = 0; d < depth; d++) to[at[i] * pitch + d] += rows[(long)i * deep + d];
}

static void take_planes(int depth, const int *at, int count, int vectors, const float *from, long pitch, float scale, float *planes) {
    const float *pixels[LANES];
    for (int v = 0; v < vectors; v++) {
        for (int i = 0; i < LANES; i++) {
            int j = v * LANES + i;
            pixels[i] = j < count && at[j] >= 0 ? from + at[j] * pitch : NULL;
        }
        to_planes(depth, pixels, NULL, scale, planes + v * LANES, vectors * LANES);
    }
}

static void give_planes(int depth, const int *at, int count, int vectors, const float *planes, float scale, float *to, long pitch) {
    float *pixels[LANES];
    for (int v = 0; v < vectors; v++) {
        for (int i = 0; i < LANES; i++) {
            int j = v * LANES + i;
            pixels[i] = j < count && at[j] >= 0 ? to + at[j] * pitch : NULL;
        }
        from_planes(depth, pixels, scale, 0, planes + v * LANES, vectors * LANES);
    }
}

/* s[key] = Σ_d q_d · key_d, of `number` keys. */
INLINE void score(int vectors, int number, int depth, int deep, const float *q, const float *keys, vec *s) {
    vec sum[4][MOST];
    for (int j = 0; j < number; j++)
        for (int v = 0; v < vectors; v++) sum[j][v] = all(0.0f);
    for (int d = 0; d < depth; d++) {
        vec mine[MOST];
        for (int v = 0; v < vectors; v++) mine[v] = load(q + (d * vectors + v) * LANES);
        for (int j = 0; j < number; j++)
            for (int v = 0; v < vectors; v++) sum[j][v] += mine[v] * keys[(long)j * deep + d];
    }
    for (int j = 0; j < number; j++)
        for (int v = 0; v < vectors; v++) s[j * vectors + v] = sum[j][v];
}

INLINE void scores(int vectors, int count, int depth, int deep, const float *q, const float *keys, vec *s) {
    int j = 0;
    for (; j + 4 <= count; j += 4) score(vectors, 4, depth, deep, q, keys + (long)j * deep, s + j * vectors);
    for (; j < count; j++) score(vectors, 1, depth, deep, q, keys + (long)j * deep, s + j * vectors);
}

/* out_d += Σ_key weight[key] · row_d, of `number` channels. */
INLINE void mix(int vectors, int number, int count, int deep, const vec *weights, const float *rows, float *out) {
    vec sum[4][MOST];
    for (int d = 0; d < number; d++)
        for (int v = 0; v < vectors; v++) sum[d][v] = load(out + (d * vectors + v) * LANES);
    for (int j = 0; j < count; j++)
        for (int v = 0; v < vectors; v++)
            for (int d = 0; d < number; d++) sum[d][v] += weights[j * vectors + v] * rows[(long)j * deep + d];
    for (int d = 0; d < number; d++)
        for (int v = 0; v < vectors; v++) store(out + (d * vectors + v) * LANES, sum[d][v]);
}

INLINE void mixes(int vectors, int count, int depth, int deep, const vec *weights, const float *rows, float *out) {
    int d = 0;
    for (; d + 4 <= depth; d += 4) mix(vectors, 4, count, deep, weights, rows + d, out + d * vectors * LANES);
    for (; d < depth; d++) mix(vectors, 1, count, deep, weights, rows + d, out + d * vectors * LANES);
}

/* row[key] += Σ_lane weight[key][lane] · query[lane], of `number` keys and one vector of channels. */
#define CONTRACT(name, type, loose_type)                                                                                      \
    INLINE void name(int number, int lanes, int deep, const float *weights, const float *queries, float *rows) {              \
        type sum[4];                                                                                                           \
        for (int j = 0; j < number; j++) sum[j] = (type) * (const loose_type *)(rows + (long)j * deep);                        \
        for (int lane = 0; lane < lanes; lane++) {                                                                             \
            type query = (type) * (const loose_type *)(queries + (long)lane * deep);                                          \
            for (int j = 0; j < number; j++) sum[j] += query * weights[j * lanes + lane];                                      \
        }                                                                                                                      \
        for (int j = 0; j < number; j++) *(loose_type *)(rows + (long)j * deep) = (loose_type)sum[j];                          \
    }
CONTRACT(contract_whole, vec, loose)
CONTRACT(contract_half, half, loose_half)

INLINE void contract_keys(int number, int lanes, int deep, const float *weights, const float *queries, float *rows) {
    int d = 0;
    for (; d + LANES <= deep; d += LANES) contract_whole(number, lanes, deep, weights, queries + d, rows + d);
    if (d < deep) contract_half(number, lanes, deep, weights, queries + d, rows + d);
}

INLINE void contract(int vectors, int count, int deep, const vec *weights, const float *queries, float *rows) {
    int j = 0, lanes = vectors * LANES;
    for (; j + 4 <= count; j += 4) contract_keys(4, lanes, deep, (const float *)(weights + j * vectors), queries, rows + (long)j * deep);
    for (; j < count; j++) contract_keys(1, lanes, deep, (const float *)(weights + j * vectors), queries, rows + (long)j * deep);
}

INLINE void add_bias(const tiling *of, int vectors, int tile, int head, int first, int key, int count, vec *s) {
    const float *both[2] = {
        of->bias ? of->bias + ((long)head * of->keys + key) * of->lanes + first : NULL,
        of->masks ? of->mask + ((long)(of->masks > 1 ? tile : 0) * of->keys + key) * of->lanes + first : NULL,
    };
    for (int which = 0; which < 2; which++)
        if (both[which])
            for (int j = 0; j < count; j++)
                for (int v = 0; v < vectors; v++) s[j * vectors + v] += load(both[which] + (long)j * of->lanes + v * LANES);
}

/* A block of queries against all keys; what is in `o` afterwards is planar. */
INLINE void attend_block(
    const tiling *of, int vectors, int tile, int head, int first, const float *q, const float *k, const float *v, vec *s, float *o, vec *lse
) {
    int deep = padded_depth(of);
    vec most[MOST], sum[MOST];
    for (int i = 0; i < vectors; i++) most[i] = all(2 * OUTSIDE), sum[i] = all(0.0f);
    memset(o, 0, sizeof(float) * of->depth * vectors * LANES);
    for (int key = 0; key < of->keys; key += BLOCK) {
        int count = key + BLOCK > of->keys ? of->keys - key : BLOCK;
        scores(vectors, count, of->depth, deep, q, k + (long)key * deep, s);
        add_bias(of, vectors, tile, head, first, key, count, s);
        for (int i = 0; i < vectors; i++) {
            vec before = most[i];
            for (int j = 0; j < count; j++) most[i] = larger(most[i], s[j * vectors + i]);
            if (key) {
                vec less = exponential(before - most[i]);
                sum[i] *= less;
                for (int d = 0; d < of->depth; d++) {
                    float *at = o + (d * vectors + i) * LANES;
                    store(at, load(at) * less);
                }
            }
        }
        for (int j = 0; j < count; j++)
            for (int i = 0; i < vectors; i++) sum[i] += s[j * vectors + i] = exponential(s[j * vectors + i] - most[i]);
        mixes(vectors, count, of->depth, deep, s, v + (long)key * deep, o);
    }
    for (int i = 0; i < vectors; i++) {
        vec share = 1.0f / sum[i];
        for (int d = 0; d < of->depth; d++) {
            float *at = o + (d * vectors + i) * LANES;
            store(at, load(at) * share);
        }
        for (int lane = 0; lane < LANES; lane++) lse[i][lane] = most[i][lane] + logf(sum[i][lane]);
    }
}

/* What a block of queries gives to the gradients: dq planar; dk, dv and, where there is one, the bias's are added to. */
INLINE void attend_block_backward(
    const tiling *of, int vectors, int tile, int head, int first, const float *q, const float *dout, const float *q_rows,
    const float *dout_rows, const float *k, const float *v, const vec *lse, const vec *delta, vec *s, vec *ds, float *dq, float *dk,
    float *dv, float *dbias
) {
    int deep = padded_depth(of);
    memset(dq, 0, sizeof(float) * of->depth * vectors * LANES);
    for (int key = 0; key < of->keys; key += BLOCK) {
        int count = key + BLOCK > of->keys ? of->keys - key : BLOCK;
        scores(vectors, count, of->depth, deep, q, k + (long)key * deep, s);
        add_bias(of, vectors, tile, head, first, key, count, s);
        scores(vectors, count, of->depth, deep, dout, v + (long)key * deep, ds);
        for (int j = 0; j < count; j++)
            for (int i = 0; i < vectors; i++) {
                vec p = s[j * vectors + i] = exponential(s[j * vectors + i] - lse[i]);
                ds[j * vectors + i] = p * (ds[j * vectors + i] - delta[i]);
            }
        mixes(vectors, count, of->depth, deep, ds, k + (long)key * deep, dq);
        contract(vectors, count, deep, ds, q_rows, dk + (long)key * deep);
        contract(vectors, count, deep, s, dout_rows, dv + (long)key * deep);
        if (dbias)
            for (int j = 0; j < count; j++)
                for (int i = 0; i < vectors; i++) {
                    float *at = dbias + (long)(key + j) * of->lanes + first + i * LANES;
                    store(at, load(at) + ds[j * vectors + i]);
                }
    }
}

#define BY_VECTORS(call)                 \
    switch (vectors) {                   \
        case 1: { enum { V = 1 }; call; break; } \
        case 2: { enum { V = 2 }; call; break; } \
        case 3: { enum { V = 3 }; call; break; } \
        default: { enum { V = MOST }; call; }    \
    }

/* q (B, pixels, C at q_pitch), k and v (B, pixels, C at kv_pitch), p (pixels of k, D) or NULL; out (B, out_area, C), lse (B, N, tiles, lanes). */
int tile_forward(const tiling *of, const float *q, const float *k, const float *v, const float *p, float *out, float *lse, int threads) {
    int depth = of->depth, deep = padded_depth(of), channels = of->heads * depth, failed = 0, wide = MOST * LANES;
    int blocks = (of->lanes + wide - 1) / wide, tasks = of->batch * of->heads * of->tiles;
    int parts = (2 * threads + tasks - 1) / tasks; /* the queries of a tile are shared out where there are few tiles */
    if (parts > blocks) parts = blocks;
    int share = (blocks + parts - 1) / parts;
    float scale = 1.0f / sqrtf((float)depth);
#pragma omp parallel num_threads(threads)
    {
        float *memory = scratch(2L * of->keys * deep + 2L * depth * wide + (long)BLOCK * wide);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            vec *s = (vec *)memory;
            float *planes = memory + (long)BLOCK * wide, *o = planes + depth * wide, *keys = o + depth * wide, *values = keys + (long)of->keys * deep;
#pragma omp for collapse(4) schedule(static)
            for (int image = 0; image < of->batch; image++)
                for (int head = 0; head < of->heads; head++)
                    for (int tile = 0; tile < of->tiles; tile++)
                        for (int part = 0; part < parts; part++) {
                            const int *key_at = of->key_at + (long)tile * of->keys;
                            long of_kv = image * of->kv_area * of->kv_pitch + head * depth;
                            take_rows(depth, deep, key_at, of->keys, k + of_kv, of->kv_pitch, p, 1.0f, keys);
                            take_rows(depth, deep, key_at, of->keys, v + of_kv, of->kv_pitch, NULL, 1.0f, values);
                            for (int block = part * share; block < (part + 1) * share && block < blocks; block++) {
                                int first = block * wide, vectors = (of->lanes - first) / LANES, left = of->queries - first;
                                vectors = vectors > MOST ? MOST : vectors;
                                long at = (long)tile * of->queries + first;
                                vec *kept = (vec *)(lse + (((long)image * of->heads + head) * of->tiles + tile) * of->lanes + first), sums[MOST];
                                take_planes(depth, of->query_at + at, left, vectors, q + image * of->q_area * of->q_pitch + head * depth, of->q_pitch, scale, planes);
                                BY_VECTORS(attend_block(of, V, tile, head, first, planes, keys, values, s, o, sums))
                                for (int i = 0; i < vectors; i++) store((float *)(kept + i), sums[i]);
                                give_planes(depth, of->out_at + at, left, vectors, o, 1.0f, out + image * of->out_area * channels + head * depth, channels);
                            }
                        }
        }
        free(memory);
    }
    return failed;
}

/* dq, dk, dv as q, k, v, all 0 before; dbias (B, N, keys, lanes), all 0 before, or NULL. */
int tile_backward(
    const tiling *of, const float *q, const float *k, const float *v, const float *p, const float *out, const float *lse,
    const float *grad_out, float *dq, float *dk, float *dv, float *dbias, int threads
) {
    int depth = of->depth, deep = padded_depth(of), channels = of->heads * depth, failed = 0, wide = MOST * LANES;
    float scale = 1.0f / sqrtf((float)depth);
#pragma omp parallel num_threads(threads)
    {
        float *memory = scratch(4L * of->keys * deep + 3L * depth * wide + 2L * deep * wide + 2L * BLOCK * wide);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            vec *s = (vec *)memory, *ds = s + BLOCK * MOST;
            float *planes = memory + 2L * BLOCK * wide, *dout = planes + depth * wide, *given = dout + depth * wide;
            float *q_rows = given + depth * wide, *dout_rows = q_rows + deep * wide;
            float *keys = dout_rows + deep * wide, *values = keys + (long)of->keys * deep;
            float *of_keys = values + (long)of->keys * deep, *of_values = of_keys + (long)of->keys * deep;
#pragma omp for collapse(2) schedule(static)
            for (int image = 0; image < of->batch; image++)
                for (int head = 0; head < of->heads; head++)
                    for (int tile = 0; tile < of->tiles; tile++) {
                        const int *key_at = of->key_at + (long)tile * of->keys;
                        long of_q = image * of->q_area * of->q_pitch + head * depth, of_kv = image * of->kv_area * of->kv_pitch + head * depth;
                        const float *mine = out + image * of->out_area * channels + head * depth;
                        const float *of_out = grad_out + image * of->out_area * channels + head * depth;
                        float *of_bias = dbias ? dbias + ((long)image * of->heads + head) * of->keys * of->lanes : NULL;
                        take_rows(depth, deep, key_at, of->keys, k + of_kv, of->kv_pitch, p, 1.0f, keys);
                        take_rows(depth, deep, key_at, of->keys, v + of_kv, of->kv_pitch, NULL, 1.0f, values);
                        memset(of_keys, 0, sizeof(float) * 2 * of->keys * deep);
                        for (int first = 0; first < of->lanes; first += wide) {
                            int vectors = (of->lanes - first) / LANES, left = of->queries - first;
                            vectors = vectors > MOST ? MOST : vectors;
                            int lanes = vectors * LANES, here = left < lanes ? left : lanes;
                            const int *query_at = of->query_at + (long)tile * of->queries + first, *out_at = of->out_at + (long)tile * of->queries + first;
                            const float *kept = lse + (((long)image * of->heads + head) * of->tiles + tile) * of->lanes + first;
                            vec sums[MOST], delta[MOST];
                            take_planes(depth, query_at, left, vectors, q + of_q, of->q_pitch, scale, planes);
                            take_planes(depth, out_at, left, vectors, of_out, channels, 1.0f, dout);
                            take_rows(depth, deep, query_at, here, q + of_q, of->q_pitch, NULL, scale, q_rows);
                            take_rows(depth, deep, out_at, here, of_out, channels, NULL, 1.0f, dout_rows);
                            memset(q_rows + (long)here * deep, 0, sizeof(float) * (lanes - here) * deep);
                            memset(dout_rows + (long)here * deep, 0, sizeof(float) * (lanes - here) * deep);
                            for (int i = 0; i < lanes; i++) {
                                float sum = 0;
                                if (i < here && out_at[i] >= 0)
                                    for (int d = 0; d < depth; d++) sum += of_out[out_at[i] * (long)channels + d] * mine[out_at[i] * (long)channels + d];
                                delta[i / LANES][i % LANES] = sum;
                                sums[i / LANES][i % LANES] = kept[i];
                            }
                            BY_VECTORS(attend_block_backward(of, V, tile, head, first, planes, dout, q_rows, dout_rows, keys, values, sums, delta, s, ds, given, of_keys, of_values, of_bias))
                            give_planes(depth, query_at, left, vectors, given, scale, dq + of_q, of->q_pitch);
                        }
                        add_rows(depth, deep, key_at, of->keys, of_keys, dk + of_kv, of->kv_pitch);
                        add_rows(depth, deep, key_at, of->keys, of_values, dv + of_kv, of->kv_pitch);
                    }
        }
        free(memory);
    }
    return failed;
}

/* ---- Mixtures ------------------------------------------------------------------------------------------------------------
 *
 * Maps are (pixels, channels). Sums over pixels are made in CHUNKS parts of the pixels, whichever threads make them, and are
 * therefore the same for any number of threads.
 */
#define CHUNKS 32
#define MAPS 16 /* at the most */

typedef struct {
    int maps, pairs, channels;
    long pixels;
    const int *pair;           /* (pairs, 2) */
    const float *const *map;   /* (maps) */
} mixture;

INLINE vec load_channels(const float *from, int left) { return left >= LANES ? load(from) : load_left(from, left); }

INLINE void store_channels(float *to, vec x, int left) {
    if (left >= LANES)
        store(to, x);
    else
        for (int i = 0; i < left; i++) to[i] = x[i];
}

/* mean (maps, C), variance (maps, C), without Bessel's correction, and covariance (pairs, C). */
int moments_forward(const mixture *of, float *mean, float *variance, float *covariance, int threads) {
    int number = 2 * of->maps + of->pairs, channels = of->channels;
    double *parts = calloc((size_t)CHUNKS * number * channels, sizeof(double));
    if (!parts) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int c = 0; c < channels; c += LANES) {
            int left = channels - c;
            vec first[MAPS], sum[MAPS], square[MAPS], product[MAPS];
            for (int m = 0; m < of->maps; m++) first[m] = load_channels(of->map[m] + c, left), sum[m] = square[m] = all(0.0f);
            for (int p = 0; p < of->pairs; p++) product[p] = all(0.0f);
            for (long i = of->pixels * chunk / CHUNKS; i < of->pixels * (chunk + 1) / CHUNKS; i++) {
                vec x[MAPS]; /* less the first pixel: sums of squares of what is near 0 lose nothing */
                for (int m = 0; m < of->maps; m++) {
                    x[m] = load_channels(of->map[m] + i * channels + c, left) - first[m];
                    sum[m] += x[m];
                    square[m] += x[m] * x[m];
                }
                for (int p = 0; p < of->pairs; p++) product[p] += x[of->pair[2 * p]] * x[of->pair[2 * p + 1]];
            }
            double *part = parts + (size_t)chunk * number * channels + c;
            for (int lane = 0; lane < LANES && lane < left; lane++) {
                for (int m = 0; m < of->maps; m++) {
                    part[(size_t)m * channels + lane] = sum[m][lane];
                    part[(size_t)(of->maps + m) * channels + lane] = square[m][lane];
                }
                for (int p = 0; p < of->pairs; p++) part[(size_t)(2 * of->maps + p) * channels + lane] = product[p][lane];
            }
        }
    for (int chunk = 1; chunk < CHUNKS; chunk++)
        for (long i = 0; i < (long)number * channels; i++) parts[i] += parts[(size_t)chunk * number * channels + i];
    double share = 1.0 / of->pixels;
    for (int c = 0; c < channels; c++) {
        for (int m = 0; m < of->maps; m++) {
            double about = parts[(size_t)m * channels + c] * share;
            mean[(size_t)m * channels + c] = (float)(of->map[m][c] + about);
            variance[(size_t)m * channels + c] = (float)(parts[(size_t)(of->maps + m) * channels + c] * share - about * about);
        }
        for (int p = 0; p < of->pairs; p++) {
            double both = parts[(size_t)of->pair[2 * p] * channels + c] * share * parts[(size_t)of->pair[2 * p + 1] * channels + c] * share;
            covariance[(size_t)p * channels + c] = (float)(parts[(size_t)(2 * of->maps + p) * channels + c] * share - both);
        }
    }
    free(parts);
    return 0;
}

/* grad (maps), each (pixels, C); the other gradients are as what they belong to. */
int moments_backward(
    const mixture *of, const float *mean, const float *of_mean, const float *of_variance, const float *of_covariance, float *const *grad,
    int threads
) {
    int channels = of->channels;
    float share = 1.0f / of->pixels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int c = 0; c < channels; c += LANES) {
            int left = channels - c;
            vec middle[MAPS], constant[MAPS], own[MAPS], other[MAPS];
            for (int m = 0; m < of->maps; m++) {
                middle[m] = load_channels(mean + (long)m * channels + c, left);
                constant[m] = load_channels(of_mean + (long)m * channels + c, left) * share;
                own[m] = load_channels(of_variance + (long)m * channels + c, left) * (2 * share);
            }
            for (int p = 0; p < of->pairs; p++) other[p] = load_channels(of_covariance + (long)p * channels + c, left) * share;
            for (long i = of->pixels * chunk / CHUNKS; i < of->pixels * (chunk + 1) / CHUNKS; i++) {
                vec x[MAPS], out[MAPS];
                for (int m = 0; m < of->maps; m++) {
                    x[m] = load_channels(of->map[m] + i * channels + c, left) - middle[m];
                    out[m] = constant[m] + own[m] * x[m];
                }
                for (int p = 0; p < of->pairs; p++) {
                    int a = of->pair[2 * p], b = of->pair[2 * p + 1];
                    out[a] += other[p] * x[b];
                    out[b] += other[p] * x[a];
                }
                for (int m = 0; m < of->maps; m++) store_channels(grad[m] + i * channels + c, out[m], left);
            }
        }
    return 0;
}

/* out = Σ factor · map + shift, of factors (maps, C) and a shift (C). */
int combine_forward(const mixture *of, const float *factor, const float *shift, float *out, int threads) {
    int channels = of->channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int c = 0; c < channels; c += LANES) {
            int left = channels - c;
            vec mine[MAPS], start = load_channels(shift + c, left);
            for (int m = 0; m < of->maps; m++) mine[m] = load_channels(factor + (long)m * channels + c, left);
            for (long i = of->pixels * chunk / CHUNKS; i < of->pixels * (chunk + 1) / CHUNKS; i++) {
                vec sum = start;
                for (int m = 0; m < of->maps; m++) sum += mine[m] * load_channels(of->map[m] + i * channels + c, left);
                store_channels(out + i * channels + c, sum, left);
            }
        }
    return 0;
}

/* grad (maps), each (pixels, C); of_factor (maps, C), of_shift (C). */
int combine_backward(
    const mixture *of, const float *factor, const float *grad_out, float *const *grad, float *of_factor, float *of_shift, int threads
) {
    int channels = of->channels, number = of->maps + 1;
    double *parts = calloc((size_t)CHUNKS * number * channels, sizeof(double));
    if (!parts) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int c = 0; c < channels; c += LANES) {
            int left = channels - c;
            vec mine[MAPS], sum[MAPS + 1];
            for (int m = 0; m < of->maps; m++) mine[m] = load_channels(factor + (long)m * channels + c, left);
            for (int m = 0; m < number; m++) sum[m] = all(0.0f);
            for (long i = of->pixels * chunk / CHUNKS; i < of->pixels * (chunk + 1) / CHUNKS; i++) {
                vec g = load_channels(grad_out + i * channels + c, left);
                for (int m = 0; m < of->maps; m++) {
                    sum[m] += g * load_channels(of->map[m] + i * channels + c, left);
                    store_channels(grad[m] + i * channels + c, g * mine[m], left);
                }
                sum[of->maps] += g;
            }
            for (int m = 0; m < number; m++)
                for (int lane = 0; lane < LANES && lane < left; lane++)
                    parts[((size_t)chunk * number + m) * channels + c + lane] = sum[m][lane];
        }
    for (int chunk = 1; chunk < CHUNKS; chunk++)
        for (long i = 0; i < (long)number * channels; i++) parts[i] += parts[(size_t)chunk * number * channels + i];
    for (long i = 0; i < (long)of->maps * channels; i++) of_factor[i] = (float)parts[i];
    for (int c = 0; c < channels; c++) of_shift[c] = (float)parts[(size_t)of->maps * channels + c];
    free(parts);
    return 0;
}

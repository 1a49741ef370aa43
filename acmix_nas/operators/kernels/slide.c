/* Attention over the K×K neighbours of every pixel, and its gradients, in float32.
 *
 * The keys of a band of query rows lie padded and planar, (D, phases · plane): a neighbour of LANES queries that follow each
 * other is LANES keys that follow each other, whichever neighbour it is. With a stride, every phase of the padded map has
 * a plane of its own, so that this holds too. Between two rows of queries lie columns that are no queries: their lanes are
 * computed and thrown away.
 *
 * Only the logarithm of each softmax's sum is kept for the backward, as in FlashAttention (Dao et al. 2022).
 */
#include "lanes.h"

#define DEEP 8 /* channels that one pass keeps in registers */

typedef struct {
    int batch, heads, depth, height, width, window, stride, dilation;
    int out_height, out_width;
    const int *rows, *columns; /* the key at each padded position, or -1 for none */
    int padded_columns;
} slide;

typedef struct {
    int first, queries; /* rows of queries */
    int padded;         /* rows of keys */
    int pitch;          /* of a plane */
    long plane, keys;   /* floats of a plane; of the planes of one channel */
    long run;           /* positions of queries: rows · pitch */
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

/* The key at position j of a row of a phase's plane, -1 for none. */
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
INLINE void
scatter(int deep, const vec *weights, const float *q, long run, float *k, long keys, const long *offsets, int taps) {
    vec mine[DEEP];
    for (int d = 0; d < deep; d++) mine[d] = load(q + d * run);
    for (int o = 0; o < taps; o++) {
        float *at = k + offsets[o];
        for (int d = 0; d < deep; d++) store(at + d * keys, load(at + d * keys) + weights[o] * mine[d]);
    }
}

#define IN_DEPTH(call_8, call_1)                                                                                               \
    {                                                                                                                          \
        int d = 0;                                                                                                             \
        for (; d + DEEP <= depth; d += DEEP) call_8;                                                                           \
        for (; d < depth; d++) call_1;                                                                                         \
    }

INLINE void logits(
    const slide *of, const band *b, const float *q, long run, const float *k, const float *outside, const float *table,
    int head, const long *offsets, long i, vec *s
) {
    int depth = of->depth, taps = of->window * of->window;
    for (int o = 0; o < taps; o++) {
        s[o] = outside ? load(outside + i + offsets[o]) : all(0.0f);
        if (table) s[o] += table[(long)o * of->heads + head];
    }
    IN_DEPTH(
        products(DEEP, q + d * run + i, run, k + d * b->keys + i, b->keys, offsets, taps, s),
        products(1, q + d * run + i, run, k + d * b->keys + i, b->keys, offsets, taps, s)
    )
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
                                if (y < b.queries && x < of->out_width)
                                    kept[y * of->out_width + x] = most[lane] + logf(sum[lane]);
                            }
                            IN_DEPTH(
                                sums(DEEP, s, v + d * b.keys + i, b.keys, offsets, taps, result + d * run + i, run),
                                sums(1, s, v + d * b.keys + i, b.keys, offsets, taps, result + d * run + i, run)
                            )
                        }
                        gather_queries(
                            of, &b, result, run, 1.0f, of->out_width, 1, out + image * out_area * channels + head * depth,
                            channels
                        );
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
                            IN_DEPTH(
                                products(DEEP, dout + d * run + i, run, v + d * b.keys + i, b.keys, offsets, taps, ds),
                                products(1, dout + d * run + i, run, v + d * b.keys + i, b.keys, offsets, taps, ds)
                            )
                            for (int o = 0; o < taps; o++) ds[o] = s[o] * (ds[o] - less);
                            if (grad_table)
                                for (int o = 0; o < taps; o++) {
                                    float sum_of = 0;
                                    for (int lane = 0; lane < LANES; lane++) sum_of += ds[o][lane];
                                    grad_table[((long)image * heads + head) * taps + o] += sum_of;
                                }
                            IN_DEPTH(
                                sums(DEEP, ds, k + d * b.keys + i, b.keys, offsets, taps, dq + d * run + i, run),
                                sums(1, ds, k + d * b.keys + i, b.keys, offsets, taps, dq + d * run + i, run)
                            )
                            IN_DEPTH(
                                scatter(DEEP, ds, q + d * run + i, run, dk + d * b.keys + i, b.keys, offsets, taps),
                                scatter(1, ds, q + d * run + i, run, dk + d * b.keys + i, b.keys, offsets, taps)
                            )
                            IN_DEPTH(
                                scatter(DEEP, s, dout + d * run + i, run, dv + d * b.keys + i, b.keys, offsets, taps),
                                scatter(1, s, dout + d * run + i, run, dv + d * b.keys + i, b.keys, offsets, taps)
                            )
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

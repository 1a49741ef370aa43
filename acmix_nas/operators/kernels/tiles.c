/* Attention of every query of a tile to every key of it, but for what a mask takes away, and its gradients, in float32: windows,
 * and the whole map as one tile.
 *
 * Queries lie planar, keys in rows; blocks of MOST vectors of queries and BLOCK keys.
 */
#include "lanes.h"

#define MOST 4   /* vectors of queries in a block */
#define BLOCK 64 /* keys in a block */

typedef struct {
    int batch, heads, depth, tiles, queries, keys;
    int masks; /* 0 for none, 1 for one of all tiles, or one for each */
    int lanes; /* queries, rounded up to LANES */
    long q_pitch, q_area, kv_pitch, kv_area, out_area;
    const int *query_at, *key_at, *out_at; /* (tiles, queries), (tiles, keys), (tiles, queries): pixels, -1 for none */
    const float *mask, *bias;              /* (masks, keys, lanes); (N, keys, lanes), or NULL */
} tiling;

INLINE int padded_depth(const tiling *of) { return (of->depth + HALF - 1) / HALF * HALF; }

/* Keys, values, or whatever lies at pixels: (count, depth padded). */
static void take_rows(
    int depth, int deep, const int *at, int count, const float *from, long pitch, const float *minus, float scale, float *rows
) {
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

static void
take_planes(int depth, const int *at, int count, int vectors, const float *from, long pitch, float scale, float *planes) {
    const float *pixels[LANES];
    for (int v = 0; v < vectors; v++) {
        for (int i = 0; i < LANES; i++) {
            int j = v * LANES + i;
            pixels[i] = j < count && at[j] >= 0 ? from + at[j] * pitch : NULL;
        }
        to_planes(depth, pixels, NULL, scale, planes + v * LANES, vectors * LANES);
    }
}

static void
give_planes(int depth, const int *at, int count, int vectors, const float *planes, float scale, float *to, long pitch) {
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
#define CONTRACT(name, type, loose_type)                                                                                       \
    INLINE void name(int number, int lanes, int deep, const float *weights, const float *queries, float *rows) {               \
        type sum[4];                                                                                                           \
        for (int j = 0; j < number; j++) sum[j] = (type) * (const loose_type *)(rows + (long)j * deep);                        \
        for (int lane = 0; lane < lanes; lane++) {                                                                             \
            type query = (type) * (const loose_type *)(queries + (long)lane * deep);                                           \
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
    for (; j + 4 <= count; j += 4)
        contract_keys(4, lanes, deep, (const float *)(weights + j * vectors), queries, rows + (long)j * deep);
    for (; j < count; j++)
        contract_keys(1, lanes, deep, (const float *)(weights + j * vectors), queries, rows + (long)j * deep);
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
    const tiling *of, int vectors, int tile, int head, int first, const float *q, const float *k, const float *v, vec *s,
    float *o, vec *lse
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
    const float *dout_rows, const float *k, const float *v, const vec *lse, const vec *delta, vec *s, vec *ds, float *dq,
    float *dk, float *dv, float *dbias
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

#define BY_VECTORS(call)                                                                                                       \
    switch (vectors) {                                                                                                         \
    case 1: {                                                                                                                  \
        enum { V = 1 };                                                                                                        \
        call;                                                                                                                  \
        break;                                                                                                                 \
    }                                                                                                                          \
    case 2: {                                                                                                                  \
        enum { V = 2 };                                                                                                        \
        call;                                                                                                                  \
        break;                                                                                                                 \
    }                                                                                                                          \
    case 3: {                                                                                                                  \
        enum { V = 3 };                                                                                                        \
        call;                                                                                                                  \
        break;                                                                                                                 \
    }                                                                                                                          \
    default: {                                                                                                                 \
        enum { V = MOST };                                                                                                     \
        call;                                                                                                                  \
    }                                                                                                                          \
    }

/* q (B, pixels, C at q_pitch), k and v (B, pixels, C at kv_pitch), p (pixels of k, D) or NULL; out (B, out_area, C),
 * lse (B, N, tiles, lanes). */
int tile_forward(
    const tiling *of, const float *q, const float *k, const float *v, const float *p, float *out, float *lse, int threads
) {
    int depth = of->depth, deep = padded_depth(of), channels = of->heads * depth, failed = 0, wide = MOST * LANES;
    int blocks = (of->lanes + wide - 1) / wide, tasks = of->batch * of->heads * of->tiles;
    if (!tasks) return 0;                          /* an empty batch */
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
            float *planes = memory + (long)BLOCK * wide, *o = planes + depth * wide, *keys = o + depth * wide,
                  *values = keys + (long)of->keys * deep;
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
                                vec *kept = (vec *)(lse + (((long)image * of->heads + head) * of->tiles + tile) * of->lanes +
                                                    first),
                                    sums[MOST];
                                take_planes(
                                    depth, of->query_at + at, left, vectors,
                                    q + image * of->q_area * of->q_pitch + head * depth, of->q_pitch, scale, planes
                                );
                                BY_VECTORS(attend_block(of, V, tile, head, first, planes, keys, values, s, o, sums))
                                for (int i = 0; i < vectors; i++) store((float *)(kept + i), sums[i]);
                                give_planes(
                                    depth, of->out_at + at, left, vectors, o, 1.0f,
                                    out + image * of->out_area * channels + head * depth, channels
                                );
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
                        long of_q = image * of->q_area * of->q_pitch + head * depth,
                             of_kv = image * of->kv_area * of->kv_pitch + head * depth;
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
                            const int *query_at = of->query_at + (long)tile * of->queries + first,
                                      *out_at = of->out_at + (long)tile * of->queries + first;
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
                                    for (int d = 0; d < depth; d++)
                                        sum += of_out[out_at[i] * (long)channels + d] * mine[out_at[i] * (long)channels + d];
                                delta[i / LANES][i % LANES] = sum;
                                sums[i / LANES][i % LANES] = kept[i];
                            }
                            BY_VECTORS(attend_block_backward(
                                of, V, tile, head, first, planes, dout, q_rows, dout_rows, keys, values, sums, delta, s, ds,
                                given, of_keys, of_values, of_bias
                            ))
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

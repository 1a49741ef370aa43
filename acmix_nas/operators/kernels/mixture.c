/* The moments of several maps, and their linear combination, in one pass each, with gradients, in float32.
 *
 * Maps are (pixels, channels). Sums over pixels are made in CHUNKS parts of the pixels, whichever threads make them, and are
 * therefore the same for any number of threads.
 */
#include "lanes.h"

#define CHUNKS 32
#define MAPS 16 /* at the most */

typedef struct {
    int maps, pairs, channels;
    long pixels;
    const int *pair;         /* (pairs, 2) */
    const float *const *map; /* (maps) */
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
            double both = parts[(size_t)of->pair[2 * p] * channels + c] * share *
                          parts[(size_t)of->pair[2 * p + 1] * channels + c] * share;
            covariance[(size_t)p * channels + c] = (float)(parts[(size_t)(2 * of->maps + p) * channels + c] * share - both);
        }
    }
    free(parts);
    return 0;
}

/* grad (maps), each (pixels, C); the other gradients are as what they belong to. */
int moments_backward(
    const mixture *of, const float *mean, const float *of_mean, const float *of_variance, const float *of_covariance,
    float *const *grad, int threads
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
    const mixture *of, const float *factor, const float *grad_out, float *const *grad, float *of_factor, float *of_shift,
    int threads
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

/* Element-wise work of a decoder layer, one pass over memory each.
 *
 * The file includes itself once per type: T is float, or bf16 held in 16 bits. All arithmetic is float32. Loops are
 * plain so that the compiler vectorises them for the machine it runs on; threads split rows statically, so the same
 * number of threads gives the same bits. Built by compiled.py with `cc -O3 -march=native -fopenmp -shared`.
 */
#ifndef T

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float load_float(const float *p) { return *p; }
static inline void store_float(float *p, float x) { *p = x; }
static inline float load_bf16(const bf16 *p) {
    uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline void store_bf16(bf16 *p, float x) { /* round to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *p = (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* e^x by 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2]: relative error below 2e-7. A NaN stays a NaN. */
static inline float fast_exp(float x) {
    float clipped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = rintf(clipped * 1.44269504f);
    float r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

/* A hash of 32 bits: lowbias32 of Wellons' hash prospector. */
static inline uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

#define JOIN(a, b) a##_##b
#define NAME2(a, b) JOIN(a, b)
#define F(name) NAME2(name, T)
#define LOAD(p) NAME2(load, T)(p)
#define STORE(p, x) NAME2(store, T)(p, x)

#define T float
#include "kernels.c"
#undef T
#define T bf16
#include "kernels.c"

#else

/* total = x + delta (delta may be null: total is not written), inverse = 1 / sqrt(mean(total^2) + eps),
 * y = total * inverse * scale. x, delta, total, y: [rows, width]; scale: [width] float32; inverse: [rows]. */
void F(rms_norm)(const T *x, const T *delta, const float *scale, T *y, T *total, float *inverse, int64_t rows,
                 int64_t width, float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const T *in = x + i * width;
        if (delta) {
            const T *add = delta + i * width;
            T *sum = total + i * width;
#pragma omp simd
            for (int64_t j = 0; j < width; j++) STORE(sum + j, LOAD(in + j) + LOAD(add + j));
            in = sum;
        }
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < width; j++) squares += LOAD(in + j) * LOAD(in + j);
        float inv = 1.0f / sqrtf(squares / (float)width + eps);
        inverse[i] = inv;
        T *out = y + i * width;
#pragma omp simd
        for (int64_t j = 0; j < width; j++) STORE(out + j, LOAD(in + j) * inv * scale[j]);
    }
}

/* dx = (g - n * mean(g * n)) * inverse + dtotal, with n = total * inverse and g = dy * scale. dtotal may be null. */
void F(rms_norm_backward)(const T *dy, const T *dtotal, const T *total, const float *scale, const float *inverse,
                          T *dx, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const T *d = dy + i * width, *x = total + i * width;
        float inv = inverse[i], dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < width; j++) dot += LOAD(d + j) * scale[j] * LOAD(x + j);
        float share = dot * inv * inv / (float)width;
        T *out = dx + i * width;
        if (dtotal) {
            const T *more = dtotal + i * width;
#pragma omp simd
            for (int64_t j = 0; j < width; j++)
                STORE(out + j, (LOAD(d + j) * scale[j] - LOAD(x + j) * share) * inv + LOAD(more + j));
        } else {
#pragma omp simd
            for (int64_t j = 0; j < width; j++)
                STORE(out + j, (LOAD(d + j) * scale[j] - LOAD(x + j) * share) * inv);
        }
    }
}

/* y = act(gate) * up over n elements; gelu: the tanh form, else silu. */
void F(gated)(const T *gate, const T *up, T *y, int64_t n, int gelu) {
    if (gelu) {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) {
            float g = LOAD(gate + i);
            float s = sigmoid(1.59576912f * (g + 0.044715f * g * g * g)); /* (1 + tanh(u)) / 2 = sigmoid(2u) */
            STORE(y + i, g * s * LOAD(up + i));
        }
    } else {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) {
            float g = LOAD(gate + i);
            STORE(y + i, g * sigmoid(g) * LOAD(up + i));
        }
    }
}

void F(gated_backward)(const T *dy, const T *gate, const T *up, T *dgate, T *dup, int64_t n, int gelu) {
    if (gelu) {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) {
            float g = LOAD(gate + i), d = LOAD(dy + i);
            float s = sigmoid(1.59576912f * (g + 0.044715f * g * g * g));
            float slope = s + g * s * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * g * g);
            STORE(dup + i, d * g * s);
            STORE(dgate + i, d * LOAD(up + i) * slope);
        }
    } else {
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < n; i++) {
            float g = LOAD(gate + i), d = LOAD(dy + i), s = sigmoid(g);
            STORE(dup + i, d * g * s);
            STORE(dgate + i, d * LOAD(up + i) * (s + g * s * (1.0f - s)));
        }
    }
}

/* y = scale * x where the hash of seed and place is at least `least`, else 0. */
void F(dropped)(const T *x, T *y, int64_t n, float scale, int64_t least, int64_t seed) {
    uint32_t bound = (uint32_t)least, key = (uint32_t)seed;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float kept = mix(mix((uint32_t)i) + key) >= bound ? scale : 0.0f;
        STORE(y + i, LOAD(x + i) * kept);
    }
}

static inline void F(turn)(const T *in, T *out, const float *c, const float *s, float sign, int64_t half, int64_t dim) {
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        float a = LOAD(in + j), b = LOAD(in + half + j), k = sign * s[j];
        STORE(out + j, a * c[j] - b * k);
        STORE(out + half + j, b * c[j] + a * k);
    }
    for (int64_t j = 2 * half; j < dim; j++) out[j] = in[j];
}

/* Rows of a bucket as one padded block: block[b, h, prefix + l] = line[start + offset[b] + l, h], behind the tokens
 * 0..prefix of the line; places behind a row's end are zero. line: [N, heads, dim]; block: [rows, heads,
 * prefix + longest, dim]. cosine and sine [N, half] rotate on the way; null: copy. */
void F(to_block)(const T *line, T *block, const int64_t *offset, const int64_t *length, int64_t rows, int64_t longest,
                 int64_t start, int64_t prefix, int64_t heads, int64_t dim, const float *cosine, const float *sine,
                 int64_t half) {
    int64_t places = prefix + longest;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < rows; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t l = 0; l < places; l++) {
                T *out = block + ((b * heads + h) * places + l) * dim;
                if (l >= prefix + length[b]) {
                    memset(out, 0, (size_t)dim * sizeof(T));
                    continue;
                }
                int64_t n = l < prefix ? l : start + offset[b] + l - prefix;
                const T *in = line + (n * heads + h) * dim;
                if (cosine)
                    F(turn)(in, out, cosine + n * half, sine + n * half, 1.0f, half, dim);
                else
                    memcpy(out, in, (size_t)dim * sizeof(T));
            }
}

/* The way back, turning by the negative angle. Real places are written; the prefix places are summed over the rows
 * and written to prefix_sum [prefix, heads, dim] (float32, not rotated back: the sum over buckets comes first). */
void F(from_block)(const T *block, T *line, float *prefix_sum, const int64_t *offset, const int64_t *length,
                   int64_t rows, int64_t longest, int64_t start, int64_t prefix, int64_t heads, int64_t dim,
                   const float *cosine, const float *sine, int64_t half) {
    int64_t places = prefix + longest;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < rows; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t l = prefix; l < prefix + length[b]; l++) {
                int64_t n = start + offset[b] + l - prefix;
                const T *in = block + ((b * heads + h) * places + l) * dim;
                T *out = line + (n * heads + h) * dim;
                if (cosine)
                    F(turn)(in, out, cosine + n * half, sine + n * half, -1.0f, half, dim);
                else
                    memcpy(out, in, (size_t)dim * sizeof(T));
            }
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t l = 0; l < prefix; l++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t b = 0; b < rows; b++) {
                const T *in = block + ((b * heads + h) * places + l) * dim;
                float *out = prefix_sum + (l * heads + h) * dim;
#pragma omp simd
                for (int64_t j = 0; j < dim; j++) out[j] += LOAD(in + j);
            }
}

/* In place: softmax over the keys a query may see, of scale * scores; 0 elsewhere. scores: [blocks, longest,
 * prefix + longest]. The query at row place l sees keys 0..prefix + l, and of those the last `window` (0: all). */
void F(softmax)(T *scores, int64_t blocks, int64_t longest, int64_t prefix, int64_t window, float scale) {
    int64_t places = prefix + longest;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t l = 0; l < longest; l++) {
            T *s = scores + (b * longest + l) * places;
            int64_t end = prefix + l + 1, first = window && end > window ? end - window : 0;
            float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
            for (int64_t j = first; j < end; j++) {
                float x = LOAD(s + j);
                top = x > top ? x : top;
            }
#pragma omp simd reduction(+ : sum)
            for (int64_t j = first; j < end; j++) {
                float e = fast_exp((LOAD(s + j) - top) * scale);
                sum += e;
                STORE(s + j, e);
            }
            float over = 1.0f / sum;
#pragma omp simd
            for (int64_t j = first; j < end; j++) STORE(s + j, LOAD(s + j) * over);
            memset(s, 0, (size_t)first * sizeof(T));
            memset(s + end, 0, (size_t)(places - end) * sizeof(T));
        }
}

/* In place on dshare: dscores = share * (dshare - sum(dshare * share)) * scale. [rows, width] */
void F(softmax_backward)(const T *share, T *dshare, int64_t rows, int64_t width, float scale) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const T *p = share + i * width;
        T *d = dshare + i * width;
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < width; j++) dot += LOAD(p + j) * LOAD(d + j);
#pragma omp simd
        for (int64_t j = 0; j < width; j++) STORE(d + j, LOAD(p + j) * (LOAD(d + j) - dot) * scale);
    }
}

/* loss[i] = ln sum exp(logits[i]) - (1 - smoothing) * logits[i, target] - smoothing * mean(logits[i]); then, where
 * `gradient` is set, the logits are overwritten by its gradient. logits: [rows, vocab]. */
void F(cross_entropy)(T *logits, const int64_t *target, float *loss, int64_t rows, int64_t vocab, float smoothing,
                      int gradient) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        T *x = logits + i * vocab;
        float top = -INFINITY, sum = 0.0f, total = 0.0f;
#pragma omp simd reduction(max : top) reduction(+ : total)
        for (int64_t j = 0; j < vocab; j++) {
            float v = LOAD(x + j);
            top = v > top ? v : top;
            total += v;
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocab; j++) sum += fast_exp(LOAD(x + j) - top);
        float log_sum = top + logf(sum), even = smoothing / (float)vocab;
        loss[i] = log_sum - (1.0f - smoothing) * LOAD(x + target[i]) - even * total;
        if (!gradient) continue;
#pragma omp simd
        for (int64_t j = 0; j < vocab; j++) STORE(x + j, fast_exp(LOAD(x + j) - log_sum) - even);
        STORE(x + target[i], LOAD(x + target[i]) - 1.0f + smoothing);
    }
}

/* Each block by its largest magnitude, then the number of `middles` that lie below each of its numbers, two to a byte.
 * weight: [numbers], with zeros behind them to whole blocks; middles: [15], codes: [blocks, block / 2], scales: [blocks] */
void F(nf4_codes)(const T *weight, const float *middles, uint8_t *codes, float *scales, int64_t numbers,
                  int64_t blocks, int64_t block) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        const T *x = weight + i * block;
        int64_t there = numbers - i * block < block ? numbers - i * block : block;
        float top = 0.0f;
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < there; j++) {
            float size = fabsf(LOAD(x + j));
            top = size > top ? size : top;
        }
        scales[i] = top;
        float divisor = top < 1.17549435e-38f ? 1.17549435e-38f : top;
        uint8_t *pairs = codes + i * (block / 2);
        memset(pairs, 0x77, (size_t)(block / 2)); /* level 7 is 0 */
        for (int64_t j = 0; j < there; j++) {
            float share = LOAD(x + j) / divisor;
            int code = 0;
            for (int k = 0; k < 15; k++) code += middles[k] < share;
            pairs[j / 2] = j % 2 ? (uint8_t)((pairs[j / 2] & 0xf0) | code) : (uint8_t)((pairs[j / 2] & 0x0f) | code << 4);
        }
    }
}

/* out[2 i], out[2 i + 1] = the levels of the higher and the lower half of codes[i], times the scale of their block.
 * codes: [blocks, bytes], scales: [blocks], levels: [16], out: [blocks, 2 * bytes] */
void F(nf4_numbers)(const uint8_t *codes, const float *scales, const float *levels, T *out, int64_t blocks,
                    int64_t bytes) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        T scaled[16];
        for (int j = 0; j < 16; j++) STORE(scaled + j, levels[j] * scales[i]);
        for (int64_t j = i * bytes; j < (i + 1) * bytes; j++) {
            out[2 * j] = scaled[codes[j] >> 4];
            out[2 * j + 1] = scaled[codes[j] & 15];
        }
    }
}

#endif

/* LAMB in as few bytes as two passes need: the first averages the moments and takes both norms, the second
   computes the update again and subtracts it. Ten words a parameter, seven where the moments are bfloat16. */

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bfloat16;

static inline float widen_float(float x) { return x; }
static inline float narrow_float(float x) { return x; }

static inline float widen_bfloat16(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline bfloat16 narrow_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bfloat16)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

#define LAMB(kind)                                                                                                   \
    void lamb_##kind(float *restrict w, const float *restrict g, kind *restrict m, kind *restrict v, long n,         \
                     float beta_1, float beta_2, float correction_1, float correction_2, float epsilon,              \
                     float weight_decay, float learning_rate) {                                                      \
        double weight_square = 0.0, update_square = 0.0;                                                             \
        _Pragma("omp parallel for reduction(+ : weight_square, update_square) schedule(static)")                     \
        for (long begin = 0; begin < n; begin += 4096) {                                                             \
            long end = begin + 4096 < n ? begin + 4096 : n;                                                          \
            float weights = 0.0f, updates = 0.0f;                                                                    \
            _Pragma("omp simd reduction(+ : weights, updates)")                                                      \
            for (long i = begin; i < end; i++) {                                                                     \
                kind new_m = narrow_##kind(beta_1 * widen_##kind(m[i]) + (1.0f - beta_1) * g[i]);                    \
                kind new_v = narrow_##kind(beta_2 * widen_##kind(v[i]) + (1.0f - beta_2) * g[i] * g[i]);             \
                float update = widen_##kind(new_m) * correction_1 / (sqrtf(widen_##kind(new_v) * correction_2) + epsilon) \
                               + weight_decay * w[i];                                                                \
                m[i] = new_m;                                                                                        \
                v[i] = new_v;                                                                                        \
                weights += w[i] * w[i];                                                                              \
                updates += update * update;                                                                          \
            }                                                                                                        \
            weight_square += weights;                                                                                \
            update_square += updates;                                                                                \
        }                                                                                                            \
        float ratio = weight_square > 0 && update_square > 0 ? sqrt(weight_square / update_square) : 1.0;            \
        float step = learning_rate * ratio;                                                                          \
        _Pragma("omp parallel for simd schedule(static)")                                                            \
        for (long i = 0; i < n; i++) {                                                                               \
            float update = widen_##kind(m[i]) * correction_1 / (sqrtf(widen_##kind(v[i]) * correction_2) + epsilon)  \
                           + weight_decay * w[i];                                                                    \
            w[i] -= step * update;                                                                                   \
        }                                                                                                            \
    }

LAMB(float)
LAMB(bfloat16)

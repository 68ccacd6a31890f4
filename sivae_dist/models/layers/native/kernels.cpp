// The element-wise parts of the networks' layers on a CPU, with the fewest passes over memory. Plain C, called by address.
//
// Maps are channels_last: [batch, pixels, channels]. What belongs to a channel of an image is [batch, channels].
// Work is cut into chunks of pixels that do not depend on the number of threads, and sums over chunks are taken in
// their order, so that results do not depend on it either.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bf16 {
    uint16_t bits;
};

// Vectors of LANES values, and a single value for the channels that are left over.
template <class A, int LANES>
struct vector_of {
    typedef A type __attribute__((vector_size(LANES * sizeof(A))));
};
template <class A>
struct vector_of<A, 1> {
    typedef A type;
};
template <class A, int LANES>
using vec = typename vector_of<A, LANES>::type;

template <class A, int LANES, class T>
inline vec<A, LANES> load(const T* from) {
    if constexpr (std::is_same_v<T, bf16>) {
        vec<uint32_t, LANES> wide;
        if constexpr (LANES == 1) {
            wide = uint32_t(from->bits);
        } else {
            vec<uint16_t, LANES> narrow;
            std::memcpy(&narrow, from, sizeof narrow);
            wide = __builtin_convertvector(narrow, vec<uint32_t, LANES>);
        }
        wide <<= 16;
        vec<A, LANES> value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    } else {
        vec<A, LANES> value;
        std::memcpy(&value, from, sizeof value);
        return value;
    }
}

template <class A, int LANES, class T>
inline void store(T* to, vec<A, LANES> value) {
    if constexpr (std::is_same_v<T, bf16>) {
        vec<uint32_t, LANES> wide;
        std::memcpy(&wide, &value, sizeof wide);
        // To the nearest, ties to even; what is not a number stays so.
        vec<uint32_t, LANES> rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
        rounded = (wide & 0x7fffffffu) > 0x7f800000u ? ((wide >> 16) | 0x40u) : rounded;
        if constexpr (LANES == 1) {
            to->bits = uint16_t(rounded);
        } else {
            vec<uint16_t, LANES> narrow = __builtin_convertvector(rounded, vec<uint16_t, LANES>);
            std::memcpy(to, &narrow, sizeof narrow);
        }
    } else {
        std::memcpy(to, &value, sizeof value);
    }
}

template <class T>
constexpr bool is_double = std::is_same_v<T, double>;
// What is computed with.
template <class T>
using exact = std::conditional_t<is_double<T>, double, float>;
template <class T>
constexpr int lanes = is_double<T> ? 8 : 16;

// A chunk's values stay in the second cache between its passes.
constexpr int64_t CHUNK_VALUES = 32768;

struct Map {
    int64_t batch, pixels, channels;

    int64_t chunk_pixels() const { return std::max<int64_t>(1, CHUNK_VALUES / channels); }
    int64_t chunks() const { return (pixels + chunk_pixels() - 1) / chunk_pixels(); }
    int64_t first(int64_t chunk) const { return chunk * chunk_pixels(); }
    int64_t last(int64_t chunk) const { return std::min(pixels, first(chunk) + chunk_pixels()); }
};

// body(image, chunk), in any order.
template <class F>
void each_chunk(const Map& map, F body) {
    const int64_t chunks = map.chunks(), count = map.batch * chunks;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < count; ++k) body(k / chunks, k % chunks);
}

// body.run<LANES>(channel) for all channels.
template <class T, class F>
inline void each_channel(int64_t channels, F body) {
    int64_t c = 0;
    for (; c + lanes<T> <= channels; c += lanes<T>) body(c, std::integral_constant<int, lanes<T>>());
    for (; c < channels; ++c) body(c, std::integral_constant<int, 1>());
}

template <class A, int LANES>
inline vec<A, LANES> rectified(vec<A, LANES> value, A slope) {
    return value > 0 ? value : value * slope;
}

// What comes before the normalization: leaky_relu(x + strength noise + bias), for a block of channels.
template <class T, int LANES>
struct Activation {
    using A = exact<T>;
    vec<A, LANES> strength{}, bias{};
    const A* noise;
    A slope;

    Activation(const A* strengths, const A* biases, const A* noise, A slope, int64_t channel)
        : noise(noise), slope(slope) {
        if (noise) strength = load<A, LANES>(strengths + channel);
        if (biases) bias = load<A, LANES>(biases + channel);
    }
    vec<A, LANES> operator()(const T* x, int64_t pixel) const {
        vec<A, LANES> value = load<A, LANES>(x) + bias;
        if (noise) value += strength * noise[pixel];
        return rectified<A, LANES>(value, slope);
    }
};

// Mean and mean square of the deviation from it, put together from two parts of `n` and `more` values.
template <class A>
inline void join(A& mean, A& m2, A n, A more_mean, A more_m2, A more) {
    const A difference = more_mean - mean, all = n + more;
    mean += difference * (more / all);
    m2 += more_m2 + difference * difference * (n * more / all);
}

template <class T>
void forward(const Map& map, const T* x, const exact<T>* noise, const exact<T>* strength, const exact<T>* bias,
             const exact<T>* scale, const exact<T>* offset, double slope, double eps, T* out, exact<T>* mean,
             exact<T>* variance) {
    using A = exact<T>;
    const int64_t C = map.channels, chunks = map.chunks();
    std::vector<A> parts(2 * map.batch * chunks * C);

    each_chunk(map, [&](int64_t image, int64_t chunk) {
        const int64_t first = map.first(chunk), last = map.last(chunk);
        A* part = parts.data() + 2 * (image * chunks + chunk) * C;
        const T* from = x + image * map.pixels * C;
        const A* noises = noise ? noise + image * map.pixels : nullptr;
        each_channel<T>(C, [&](int64_t c, auto width) {
            constexpr int LANES = decltype(width)::value;
            const Activation<T, LANES> activation(strength, bias, noises, A(slope), c);
            // Deviations from a value of the chunk, whose squares lose nothing when the mean is large.
            const vec<A, LANES> pivot = activation(from + first * C + c, first);
            vec<A, LANES> sum{}, squares{};
            for (int64_t p = first; p < last; ++p) {
                const vec<A, LANES> difference = activation(from + p * C + c, p) - pivot;
                sum += difference;
                squares += difference * difference;
            }
            const A count = A(last - first);
            store<A, LANES>(part + c, pivot + sum / count);
            store<A, LANES>(part + C + c, squares - sum * (sum / count));
        });
    });

    std::vector<A> factor(map.batch * C), addend(map.batch * C);
    for (int64_t image = 0; image < map.batch; ++image) {
        A *m = mean + image * C, *v = variance + image * C;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const A* part = parts.data() + 2 * (image * chunks + chunk) * C;
            const A n = A(map.first(chunk)), more = A(map.last(chunk) - map.first(chunk));
            for (int64_t c = 0; c < C; ++c) {
                if (chunk == 0) {
                    m[c] = part[c], v[c] = part[C + c];
                } else {
                    join(m[c], v[c], n, part[c], part[C + c], more);
                }
            }
        }
        for (int64_t c = 0; c < C; ++c) {
            const int64_t k = image * C + c;
            v[c] = std::max(v[c] / A(map.pixels), A(0));
            factor[k] = (scale ? A(1) + scale[k] : A(1)) / std::sqrt(v[c] + A(eps));
            addend[k] = (offset ? offset[k] : A(0)) - m[c] * factor[k];
        }
    }

    each_chunk(map, [&](int64_t image, int64_t chunk) {
        const int64_t first = map.first(chunk), last = map.last(chunk);
        const T* from = x + image * map.pixels * C;
        T* to = out + image * map.pixels * C;
        const A* noises = noise ? noise + image * map.pixels : nullptr;
        each_channel<T>(C, [&](int64_t c, auto width) {
            constexpr int LANES = decltype(width)::value;
            const Activation<T, LANES> activation(strength, bias, noises, A(slope), c);
            const vec<A, LANES> f = load<A, LANES>(factor.data() + image * C + c);
            const vec<A, LANES> a = load<A, LANES>(addend.data() + image * C + c);
            for (int64_t p = first; p < last; ++p)
                store<A, LANES>(to + p * C + c, activation(from + p * C + c, p) * f + a);
        });
    });
}

template <class T>
void backward(const Map& map, const T* grad, const exact<T>* grad_mean, const exact<T>* grad_variance, const T* x,
              const exact<T>* noise, const exact<T>* strength, const exact<T>* bias, const exact<T>* scale,
              const exact<T>* mean, const exact<T>* variance, double slope, double eps, T* grad_x,
              exact<T>* grad_strength, exact<T>* grad_bias, exact<T>* grad_scale, exact<T>* grad_offset) {
    using A = exact<T>;
    const int64_t C = map.channels, chunks = map.chunks(), N = map.pixels;
    std::vector<A> parts(2 * map.batch * chunks * C);

    // Sums over an image's pixels of the gradient, and of its product with the deviation.
    each_chunk(map, [&](int64_t image, int64_t chunk) {
        const int64_t first = map.first(chunk), last = map.last(chunk);
        A* part = parts.data() + 2 * (image * chunks + chunk) * C;
        const T *from = x + image * N * C, *above = grad + image * N * C;
        const A* noises = noise ? noise + image * N : nullptr;
        each_channel<T>(C, [&](int64_t c, auto width) {
            constexpr int LANES = decltype(width)::value;
            const Activation<T, LANES> activation(strength, bias, noises, A(slope), c);
            const vec<A, LANES> m = load<A, LANES>(mean + image * C + c);
            vec<A, LANES> sum{}, product{};
            for (int64_t p = first; p < last; ++p) {
                const vec<A, LANES> g = load<A, LANES>(above + p * C + c);
                sum += g;
                product += g * (activation(from + p * C + c, p) - m);
            }
            store<A, LANES>(part + c, sum);
            store<A, LANES>(part + C + c, product);
        });
    });

    // The gradient of the activation is g * on_grad + activation * on_value + rest.
    std::vector<A> on_grad(map.batch * C), on_value(map.batch * C), rest(map.batch * C);
    for (int64_t image = 0; image < map.batch; ++image) {
        std::vector<A> sum(C), product(C);
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const A* part = parts.data() + 2 * (image * chunks + chunk) * C;
            for (int64_t c = 0; c < C; ++c) sum[c] += part[c], product[c] += part[C + c];
        }
        for (int64_t c = 0; c < C; ++c) {
            const int64_t k = image * C + c;
            const A r = A(1) / std::sqrt(variance[k] + A(eps));
            if (grad_scale) grad_scale[k] = product[c] * r, grad_offset[k] = sum[c];
            on_grad[k] = (scale ? A(1) + scale[k] : A(1)) * r;
            on_value[k] = (-on_grad[k] * product[c] * r * r + (grad_variance ? 2 * grad_variance[k] : A(0))) / A(N);
            rest[k] = (-on_grad[k] * sum[c] + (grad_mean ? grad_mean[k] : A(0))) / A(N) - on_value[k] * mean[k];
        }
    }

    each_chunk(map, [&](int64_t image, int64_t chunk) {
        const int64_t first = map.first(chunk), last = map.last(chunk);
        A* part = parts.data() + 2 * (image * chunks + chunk) * C;
        const T *from = x + image * N * C, *above = grad + image * N * C;
        T* to = grad_x + image * N * C;
        const A* noises = noise ? noise + image * N : nullptr;
        each_channel<T>(C, [&](int64_t c, auto width) {
            constexpr int LANES = decltype(width)::value;
            const Activation<T, LANES> activation(strength, bias, noises, A(slope), c);
            const vec<A, LANES> of_grad = load<A, LANES>(on_grad.data() + image * C + c);
            const vec<A, LANES> of_value = load<A, LANES>(on_value.data() + image * C + c);
            const vec<A, LANES> of_none = load<A, LANES>(rest.data() + image * C + c);
            vec<A, LANES> sum{}, product{};
            for (int64_t p = first; p < last; ++p) {
                const vec<A, LANES> value = activation(from + p * C + c, p);
                vec<A, LANES> g = load<A, LANES>(above + p * C + c) * of_grad + value * of_value + of_none;
                g = value > 0 ? g : g * A(slope);
                store<A, LANES>(to + p * C + c, g);
                sum += g;
                if (noises) product += g * noises[p];
            }
            store<A, LANES>(part + c, sum);
            store<A, LANES>(part + C + c, product);
        });
    });

    const auto add_up = [&](A* grads, int64_t which) {
        if (!grads) return;
        std::fill(grads, grads + C, A(0));
        for (int64_t k = 0; k < map.batch * chunks; ++k)
            for (int64_t c = 0; c < C; ++c) grads[c] += parts[(2 * k + which) * C + c];
    };
    add_up(grad_bias, 0);
    add_up(grad_strength, 1);
}

// The binomial filter [1, 2, 1] / 4 in both directions, zeros beyond the borders.
template <class T>
void blur(int64_t batch, int64_t height, int64_t width, int64_t C, const T* x, T* out) {
    using A = exact<T>;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < batch * height; ++row) {
        const int64_t h = row % height;
        const T* from = x + row * width * C;
        T* to = out + row * width * C;
        each_channel<T>(C, [&](int64_t c, auto lanes_) {
            constexpr int LANES = decltype(lanes_)::value;
            const auto column = [&](int64_t w) {
                const T* middle = from + w * C + c;
                vec<A, LANES> value = 2 * load<A, LANES>(middle);
                if (h > 0) value += load<A, LANES>(middle - width * C);
                if (h + 1 < height) value += load<A, LANES>(middle + width * C);
                return value;
            };
            vec<A, LANES> left{}, here = column(0);
            for (int64_t w = 0; w < width; ++w) {
                vec<A, LANES> right{};
                if (w + 1 < width) right = column(w + 1);
                store<A, LANES>(to + w * C + c, (left + 2 * here + right) * A(1.0 / 16));
                left = here, here = right;
            }
        });
    }
}

// factor * x in another type.
template <class From, class To>
void scale(int64_t count, const From* x, double factor, To* out) {
    constexpr int64_t BLOCK = 4096;
    const float by = float(factor);
#pragma omp parallel for schedule(static)
    for (int64_t from = 0; from < count; from += BLOCK)
        each_channel<float>(std::min(BLOCK, count - from), [&](int64_t i, auto lanes_) {
            constexpr int LANES = decltype(lanes_)::value;
            store<float, LANES>(out + from + i, load<float, LANES>(x + from + i) * by);
        });
}

}  // namespace

#define FOR(NAME, T)                                                                                                  \
    extern "C" void activate_and_normalize_##NAME(                                                                    \
        int64_t batch, int64_t pixels, int64_t channels, const T* x, const exact<T>* noise,                           \
        const exact<T>* strength, const exact<T>* bias, const exact<T>* scale, const exact<T>* offset, double slope,   \
        double eps, T* out, exact<T>* mean, exact<T>* variance) {                                                     \
        forward<T>({batch, pixels, channels}, x, noise, strength, bias, scale, offset, slope, eps, out, mean,          \
                   variance);                                                                                         \
    }                                                                                                                 \
    extern "C" void activate_and_normalize_backward_##NAME(                                                           \
        int64_t batch, int64_t pixels, int64_t channels, const T* grad, const exact<T>* grad_mean,                    \
        const exact<T>* grad_variance, const T* x, const exact<T>* noise, const exact<T>* strength,                   \
        const exact<T>* bias, const exact<T>* scale, const exact<T>* mean, const exact<T>* variance, double slope,     \
        double eps, T* grad_x, exact<T>* grad_strength, exact<T>* grad_bias, exact<T>* grad_scale,                     \
        exact<T>* grad_offset) {                                                                                      \
        backward<T>({batch, pixels, channels}, grad, grad_mean, grad_variance, x, noise, strength, bias, scale, mean,  \
                    variance, slope, eps, grad_x, grad_strength, grad_bias, grad_scale, grad_offset);                  \
    }                                                                                                                 \
    extern "C" void blur_##NAME(int64_t batch, int64_t height, int64_t width, int64_t channels, const T* x, T* out) { \
        blur<T>(batch, height, width, channels, x, out);                                                              \
    }

FOR(float32, float)
FOR(float64, double)
FOR(bfloat16, bf16)

#define SCALE(FROM, TO, From, To)                                                                 \
    extern "C" void scale_to_##TO##_##FROM(int64_t count, const From* x, double factor, To* out) { \
        scale(count, x, factor, out);                                                             \
    }

SCALE(float32, bfloat16, float, bf16)
SCALE(bfloat16, float32, bf16, float)

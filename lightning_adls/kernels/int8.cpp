// Products of rounded inputs and int8 weights with exact int32 sums, for CPUs with AVX2.
//
// A row of the input is rounded to int16 once, pairs of its numbers are multiplied with pairs of
// weights by vpmaddwd, and what comes out is scaled and gets its bias while it is in registers.
// Instructions that multiply bytes would saturate sums of two products, of 8 bits by 8 bits.

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace {

constexpr long COLUMNS = 16;           // outputs of a panel of weights
constexpr long ROWS = 6;               // rows at once: 12 sums fit the registers
constexpr long CACHED_BYTES = 196608;  // of rounded rows that stay in the second cache

struct Rounding {
    float step, low, high;
    bool down;
};

__m256 bounded(__m256 x, const Rounding& by) {
    const __m256 k = _mm256_div_ps(x, _mm256_set1_ps(by.step));
    // The bound comes second: it is what a NaN becomes.
    const __m256 above = _mm256_max_ps(k, _mm256_set1_ps(by.low));
    const __m256 within = _mm256_min_ps(above, _mm256_set1_ps(by.high));
    return by.down ? _mm256_floor_ps(within) : within;
}

void store_rounded(const float* x, const Rounding& by, int16_t* to) {
    const __m256i left = _mm256_cvtps_epi32(bounded(_mm256_loadu_ps(x), by));
    const __m256i right = _mm256_cvtps_epi32(bounded(_mm256_loadu_ps(x + 8), by));
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(left, right), 0xD8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), both);
}

// Rounds a row; what is beyond its end, up to `padded` numbers, becomes zero.
void round_row(const float* x, long inner, long padded, const Rounding& by, int16_t* to) {
    long k = 0;
    for (; k + 16 <= inner; k += 16) store_rounded(x + k, by, to + k);
    if (k == padded) return;
    float rest[16] = {};
    int16_t rounded[16];
    memcpy(rest, x + k, (inner - k) * sizeof(float));
    store_rounded(rest, by, rounded);
    for (long i = 0; k + i < padded; ++i) to[k + i] = k + i < inner ? rounded[i] : 0;
}

void finish(__m256i left, __m256i right, float scale, const float* bias, float* out, long columns) {
    float row[COLUMNS];
    float* to = columns == COLUMNS ? out : row;
    const __m256 each = _mm256_set1_ps(scale);
    const __m256 first = _mm256_mul_ps(_mm256_cvtepi32_ps(left), each);
    const __m256 second = _mm256_mul_ps(_mm256_cvtepi32_ps(right), each);
    _mm256_storeu_ps(to, _mm256_add_ps(first, _mm256_loadu_ps(bias)));
    _mm256_storeu_ps(to + 8, _mm256_add_ps(second, _mm256_loadu_ps(bias + 8)));
    if (columns < COLUMNS) memcpy(out, row, columns * sizeof(float));
}

#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)

#define ZERO(r) __m256i left##r = _mm256_setzero_si256(), right##r = left##r;

// In assembler because compilers load all rows first, and then have too few registers for the sums.
#define ADD(r)                                                                        \
    if constexpr (r < N) {                                                            \
        __m256i pair, product;                                                        \
        asm volatile(                                                                 \
            "vpbroadcastd %[a], %[pair]\n\t"                                          \
            "vpmaddwd %[first], %[pair], %[product]\n\t"                              \
            "vpmaddwd %[second], %[pair], %[pair]\n\t"                                \
            "vpaddd %[product], %[left], %[left]\n\t"                                 \
            "vpaddd %[pair], %[right], %[right]"                                      \
            : [left] "+x"(left##r), [right] "+x"(right##r), [pair] "=&x"(pair),       \
              [product] "=&x"(product)                                                \
            : [a] "m"(*reinterpret_cast<const int32_t*>(a + r * padded + 2 * k)),     \
              [first] "x"(first), [second] "x"(second));                              \
    }

#define FINISH(r) \
    if constexpr (r < N) finish(left##r, right##r, scale, bias, out + r * all, columns);

// N rows by one panel of weights, whose bytes are (pairs, COLUMNS, 2).
template <long N>
void multiply(const int16_t* a, long padded, const int8_t* panel, float scale, const float* bias,
              float* out, long all, long columns) {
    EACH_ROW(ZERO)
    for (long k = 0; k < padded / 2; ++k) {
        const __m128i* bytes = reinterpret_cast<const __m128i*>(panel + 2 * COLUMNS * k);
        const __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
        const __m256i second = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + 1));
        EACH_ROW(ADD)
    }
    EACH_ROW(FINISH)
}

using Multiply = void (*)(const int16_t*, long, const int8_t*, float, const float*, float*, long,
                          long);
const Multiply BY_ROWS[] = {nullptr,     multiply<1>, multiply<2>, multiply<3>,
                            multiply<4>, multiply<5>, multiply<6>};

long divided_up(long a, long b) { return (a + b - 1) / b; }

}  // namespace

// x (rows, inner), panels (columns / 16, inner / 2, 16, 2) and bias (columns), each rounded up and
// padded with zeros, out (rows, columns). Returns whether there was memory.
extern "C" bool int8_linear(const float* x, const int8_t* panels, const float* bias, float* out,
                            long rows, long inner, long columns, float input_step, float scale,
                            float low, float high, bool down, int threads) {
    const Rounding by{input_step, low, high, down};
    const long padded = divided_up(inner, 2) * 2, count = divided_up(columns, COLUMNS);
    // Blocks of rows are rounded by who multiplies them. Where there are fewer than threads,
    // several threads share a block and each has some of the panels.
    long most = CACHED_BYTES / (padded * static_cast<long>(sizeof(int16_t))) / ROWS * ROWS;
    most = most < ROWS ? ROWS : most > 16 * ROWS ? 16 * ROWS : most;
    const long of_thread = divided_up(rows, threads);
    long block = divided_up(of_thread, divided_up(of_thread, most));
    block = divided_up(block, ROWS) * ROWS;
    const long blocks = divided_up(rows, block);
    const long shares = blocks < threads ? divided_up(threads, blocks) : 1;
    const long share = divided_up(count, shares);
    bool enough = true;
#pragma omp parallel num_threads(threads)
    {
        int16_t* a = static_cast<int16_t*>(malloc(block * padded * sizeof(int16_t)));
        if (a == nullptr) {
#pragma omp atomic write
            enough = false;
        }
#pragma omp for schedule(static)
        for (long task = 0; task < blocks * shares; ++task) {
            const long begin = task / shares * block;
            const long end = begin + block < rows ? begin + block : rows;
            const long from = task % shares * share;
            const long to = from + share < count ? from + share : count;
            if (a == nullptr || from >= to) continue;
            for (long r = begin; r < end; ++r)
                round_row(x + r * inner, inner, padded, by, a + (r - begin) * padded);
            for (long p = from; p < to; ++p) {
                const long first = p * COLUMNS;
                const long width = columns - first < COLUMNS ? columns - first : COLUMNS;
                for (long r = begin; r < end; r += ROWS) {
                    const long n = end - r < ROWS ? end - r : ROWS;
                    BY_ROWS[n](a + (r - begin) * padded, padded, panels + first * padded, scale,
                               bias + first, out + r * columns + first, columns, width);
                }
            }
        }
        free(a);
    }
    return enough;
}

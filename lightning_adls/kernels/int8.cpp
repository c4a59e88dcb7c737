// Products of rounded inputs and int8 weights with exact int32 sums, for CPUs with AVX2.
//
// A row of the input is rounded to int16 once, pairs of its numbers are multiplied with pairs of
// weights by vpmaddwd, and what comes out is scaled and gets its bias while it is in registers.
// Instructions that multiply bytes would saturate sums of two products, of 8 bits by 8 bits.

#include <immintrin.h>
#include <math.h>
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

// Of a row: the exponents of blocks of `size` numbers, which is even, and bits of an element.
struct Blocks {
    long size;
    int lowest, highest, width;
};

long divided_up(long a, long b) { return (a + b - 1) / b; }

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

// Bits of the largest finite magnitude.
int32_t largest(const float* x, long count) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF), infinity = _mm256_set1_epi32(0x7F800000);
    __m256i found = _mm256_setzero_si256();
    for (long k = 0; k < count; k += 8) {
        alignas(32) float rest[8] = {};
        const float* from = x + k;
        if (count - k < 8) from = static_cast<float*>(memcpy(rest, from, (count - k) * sizeof(float)));
        const __m256i bits =
            _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(from)), magnitude);
        const __m256i finite = _mm256_and_si256(bits, _mm256_cmpgt_epi32(infinity, bits));
        found = _mm256_max_epi32(found, finite);
    }
    alignas(32) int32_t each[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), found);
    int32_t most = 0;
    for (int32_t one : each) most = one > most ? one : most;
    return most;
}

// Rounds each block of a row by its own step, a power of two that its largest number decides.
void round_blocks(const float* x, long inner, const Blocks& blocks, int16_t* to, float* steps) {
    const float most = static_cast<float>((1 << (blocks.width - 1)) - 1);
    for (long k = 0; k < inner; k += blocks.size) {
        const long count = inner - k < blocks.size ? inner - k : blocks.size;
        int exponent = (largest(x + k, count) >> 23) - 127;
        exponent = exponent < blocks.lowest    ? blocks.lowest
                   : exponent > blocks.highest ? blocks.highest
                                               : exponent;
        *steps = ldexpf(1.0f, exponent + 2 - blocks.width);
        round_row(x + k, count, divided_up(count, 2) * 2, {*steps++, -most, most, false}, to + k);
    }
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

void add(float* sums, __m256i products, __m256 scale) {
    const __m256 values = _mm256_mul_ps(_mm256_cvtepi32_ps(products), scale);
    _mm256_store_ps(sums, _mm256_add_ps(_mm256_load_ps(sums), values));
}

#define ADD_BLOCK(r)                                                         \
    if constexpr (r < N) {                                                   \
        const __m256 row = _mm256_set1_ps(row_steps[r * count + block]);     \
        add(sums[r], left##r, _mm256_mul_ps(row, left_steps));               \
        add(sums[r] + 8, right##r, _mm256_mul_ps(row, right_steps));         \
    }

// The same, where each block of a row and of a column has a step: blocks are summed in float32.
template <long N>
void multiply_blocks(const int16_t* a, const float* row_steps, long padded, const int8_t* panel,
                     const float* steps, long size, const float* bias, float* out, long all,
                     long columns) {
    alignas(32) float sums[ROWS][COLUMNS];
    for (long r = 0; r < N; ++r) memcpy(sums[r], bias, sizeof(sums[r]));
    const long count = divided_up(padded, size);
    for (long block = 0; block < count; ++block) {
        const long end = (block + 1) * size < padded ? (block + 1) * size : padded;
        EACH_ROW(ZERO)
        for (long k = block * size / 2; k < end / 2; ++k) {
            const __m128i* bytes = reinterpret_cast<const __m128i*>(panel + 2 * COLUMNS * k);
            const __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
            const __m256i second = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + 1));
            EACH_ROW(ADD)
        }
        const __m256 left_steps = _mm256_loadu_ps(steps + block * COLUMNS);
        const __m256 right_steps = _mm256_loadu_ps(steps + block * COLUMNS + 8);
        EACH_ROW(ADD_BLOCK)
    }
    for (long r = 0; r < N; ++r) memcpy(out + r * all, sums[r], columns * sizeof(float));
}

using Multiply = void (*)(const int16_t*, long, const int8_t*, float, const float*, float*, long,
                          long);
const Multiply BY_ROWS[] = {nullptr,     multiply<1>, multiply<2>, multiply<3>,
                            multiply<4>, multiply<5>, multiply<6>};
using MultiplyBlocks = void (*)(const int16_t*, const float*, long, const int8_t*, const float*,
                                long, const float*, float*, long, long);
const MultiplyBlocks BLOCKS_BY_ROWS[] = {nullptr,
                                         multiply_blocks<1>,
                                         multiply_blocks<2>,
                                         multiply_blocks<3>,
                                         multiply_blocks<4>,
                                         multiply_blocks<5>,
                                         multiply_blocks<6>};

}  // namespace

// x (rows, inner), panels (columns / 16, inner / 2, 16, 2) and bias (columns), each rounded up and
// padded with zeros, out (rows, columns). With `steps`, (columns / 16, inner / size, 16), rounded
// up, blocks have steps, and `input_step` and `scale` are not used. Returns whether there was memory.
extern "C" bool int8_linear(const float* x, const int8_t* panels, const float* bias, float* out,
                            long rows, long inner, long columns, float input_step, float scale,
                            float low, float high, bool down, const float* steps, long size,
                            int lowest, int highest, int width, int threads) {
    const Rounding by{input_step, low, high, down};
    const long padded = divided_up(inner, 2) * 2, count = divided_up(columns, COLUMNS);
    if (size > inner - inner % 2) size = padded;  // one block, of an odd number perhaps
    const Blocks blocked{size, lowest, highest, width};
    const long row_blocks = steps == nullptr ? 0 : divided_up(padded, size);
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
        // Steps come first, for their alignment.
        const long step_bytes = block * row_blocks * static_cast<long>(sizeof(float));
        char* memory = static_cast<char*>(malloc(step_bytes + block * padded * sizeof(int16_t)));
        float* row_steps = reinterpret_cast<float*>(memory);
        int16_t* a = reinterpret_cast<int16_t*>(memory + step_bytes);
        if (memory == nullptr) {
#pragma omp atomic write
            enough = false;
        }
#pragma omp for schedule(static)
        for (long task = 0; task < blocks * shares; ++task) {
            const long begin = task / shares * block;
            const long end = begin + block < rows ? begin + block : rows;
            const long from = task % shares * share;
            const long to = from + share < count ? from + share : count;
            if (memory == nullptr || from >= to) continue;
            for (long r = begin; r < end; ++r) {
                int16_t* row = a + (r - begin) * padded;
                if (steps == nullptr)
                    round_row(x + r * inner, inner, padded, by, row);
                else
                    round_blocks(x + r * inner, inner, blocked, row,
                                 row_steps + (r - begin) * row_blocks);
            }
            for (long p = from; p < to; ++p) {
                const long first = p * COLUMNS;
                const long wide = columns - first < COLUMNS ? columns - first : COLUMNS;
                for (long r = begin; r < end; r += ROWS) {
                    const long n = end - r < ROWS ? end - r : ROWS;
                    const int16_t* row = a + (r - begin) * padded;
                    const int8_t* panel = panels + first * padded;
                    float* to_row = out + r * columns + first;
                    if (steps == nullptr)
                        BY_ROWS[n](row, padded, panel, scale, bias + first, to_row, columns, wide);
                    else
                        BLOCKS_BY_ROWS[n](row, row_steps + (r - begin) * row_blocks, padded, panel,
                                          steps + first * row_blocks, size, bias + first, to_row,
                                          columns, wide);
                }
            }
        }
        free(memory);
    }
    return enough;
}

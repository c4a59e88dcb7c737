// Float32 values become codes of a few bits, and codes a stream of bits, for CPUs with AVX2.
//
// A value is rounded by looking its upper 16 bits up, or by comparing it with a few steps: there is
// no arithmetic that could round otherwise than the format does, but the division by a scale.

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr long TILE = 1024;  // codes that are packed at once, whole bytes of any width

long least(long a, long b) { return a < b ? a : b; }

// Codes of at most 8 bits, one in each byte; `out` has room for 8 bytes more.
void pack_bytes(const uint8_t* codes, long count, int width, uint8_t* out) {
    if (width == 8) {
        memcpy(out, codes, count);
        return;
    }
    const auto lower = [](int bits, int lane) {
        uint64_t ones = 0;
        for (int start = 0; start < 64; start += 2 * lane) ones |= ((1ull << bits) - 1) << start;
        return ones;
    };
    const uint64_t one = lower(width, 8), two = lower(2 * width, 16), four = lower(4 * width, 32);
    for (long k = 0; k < count; k += 8) {
        uint64_t x = 0;
        memcpy(&x, codes + k, least(8, count - k));
        x = (x & one) | ((x >> 8 & one) << width);
        x = (x & two) | ((x >> 16 & two) << 2 * width);
        x = (x & four) | ((x >> 32 & four) << 4 * width);
        memcpy(out, &x, 8);
        out += width;
    }
}

template <typename Code>
void pack_wide(const Code* codes, long count, int width, uint8_t* out, const uint8_t* end) {
    const uint64_t ones = (1ull << width) - 1;
    uint64_t waiting = 0;
    int bits = 0;
    for (long k = 0; k < count; ++k) {
        waiting |= (static_cast<uint64_t>(codes[k]) & ones) << bits;
        for (bits += width; bits >= 8; bits -= 8, waiting >>= 8) *out++ = waiting;
    }
    if (bits > 0 && out < end) *out = waiting;
}

bool holds_nan(const float* x, long count) {
    __m256 found = _mm256_setzero_ps();
    long k = 0;
    for (; k + 8 <= count; k += 8) {
        const __m256 here = _mm256_loadu_ps(x + k);
        found = _mm256_or_ps(found, _mm256_cmp_ps(here, here, _CMP_UNORD_Q));
    }
    bool any = _mm256_movemask_ps(found) != 0;
    for (; k < count; ++k) any |= x[k] != x[k];
    return any;
}

// Has `code` write the codes of a tile of elements, and packs them; returns whether there was a NaN.
template <typename Code>
bool encode_tiles(const float* x, long count, int width, uint8_t* out, int threads,
                  const Code& code) {
    const long tiles = (count + TILE - 1) / TILE;
    int nan = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : nan)
    for (long tile = 0; tile < tiles; ++tile) {
        alignas(32) uint8_t codes[TILE], packed[TILE + 8];
        const long first = tile * TILE, size = least(TILE, count - first);
        nan |= holds_nan(x + first, size);
        code(first, size, codes);
        pack_bytes(codes, size, width, packed);
        memcpy(out + first / 8 * width, packed, (size * width + 7) / 8);
    }
    return nan != 0;
}

// Of an entry the lowest byte is the code below a boundary, the next one the code from there on,
// and the upper half the lower 16 bits of the boundary.
uint8_t looked_up(float value, const uint32_t* table) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    const uint32_t entry = table[bits >> 16];
    return (bits & 0xFFFF) >= entry >> 16 ? entry >> 8 : entry;
}

void look_up_eight(__m256 values, const uint32_t* table, uint8_t* codes) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i entries = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table),
                                                   _mm256_srli_epi32(bits, 16), 4);
    const __m256i lower = _mm256_and_si256(bits, _mm256_set1_epi32(0xFFFF));
    const __m256i below = _mm256_cmpgt_epi32(_mm256_srli_epi32(entries, 16), lower);
    const __m256i found = _mm256_blendv_epi8(_mm256_srli_epi32(entries, 8), entries, below);
    const __m256i first = _mm256_set1_epi32(0x0C080400);
    const __m256i bytes = _mm256_shuffle_epi8(found, first);
    const int left = _mm_cvtsi128_si32(_mm256_castsi256_si128(bytes));
    const int right = _mm_cvtsi128_si32(_mm256_extracti128_si256(bytes, 1));
    memcpy(codes, &left, sizeof(left));
    memcpy(codes + 4, &right, sizeof(right));
}

void look_up(const float* x, long count, float divisor, const uint32_t* table, uint8_t* codes) {
    const __m256 by = _mm256_set1_ps(divisor);
    long k = 0;
    for (; k + 8 <= count; k += 8)
        look_up_eight(_mm256_div_ps(_mm256_loadu_ps(x + k), by), table, codes + k);
    for (; k < count; ++k) codes[k] = looked_up(x[k] / divisor, table);
}

// Changes codes where elements are no smaller than a step.
void pass_step(const float* x, long count, float step, uint8_t change, uint8_t* codes) {
    const __m256 at = _mm256_set1_ps(step);
    const __m256i changes = _mm256_set1_epi8(static_cast<char>(change));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const auto passed = [&](long k) {
        return _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + k), at, _CMP_GE_OQ));
    };
    long k = 0;
    for (; k + 32 <= count; k += 32) {
        const __m256i low = _mm256_packs_epi32(passed(k), passed(k + 8));
        const __m256i high = _mm256_packs_epi32(passed(k + 16), passed(k + 24));
        const __m256i all = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        __m256i* to = reinterpret_cast<__m256i*>(codes + k);
        const __m256i changed = _mm256_and_si256(all, changes);
        _mm256_storeu_si256(to, _mm256_xor_si256(_mm256_loadu_si256(to), changed));
    }
    for (; k < count; ++k) codes[k] ^= x[k] >= step ? change : 0;
}

// Bits of the largest finite magnitude.
int32_t largest(const float* x, long count) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF), infinity = _mm256_set1_epi32(0x7F800000);
    __m256i found = _mm256_setzero_si256();
    long k = 0;
    for (; k + 8 <= count; k += 8) {
        const __m256i bits =
            _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), magnitude);
        const __m256i finite = _mm256_and_si256(bits, _mm256_cmpgt_epi32(infinity, bits));
        found = _mm256_max_epi32(found, finite);
    }
    __m128i most =
        _mm_max_epi32(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4E));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xB1));
    int32_t all = _mm_cvtsi128_si32(most);
    for (; k < count; ++k) {
        int32_t bits;
        memcpy(&bits, x + k, sizeof(bits));
        bits &= 0x7FFFFFFF;
        if (bits < 0x7F800000 && bits > all) all = bits;
    }
    return all;
}

}  // namespace

// x (rows, columns) with `count` elements; `divisors` (rows / tall, columns / wide), rounded up,
// which are positive; `out` (count * width / 8), rounded up. Returns whether x holds a NaN.
extern "C" bool encode_by_table(const float* x, long count, long columns, const float* divisors,
                                long tall, long wide, const uint32_t* table, int width,
                                uint8_t* out, int threads) {
    const long across = (columns + wide - 1) / wide;
    return encode_tiles(x, count, width, out, threads, [=](long first, long size, uint8_t* codes) {
        long row = first / columns, column = first % columns, block = column / wide;
        for (long k = 0; k < size;) {
            const long end = least((block + 1) * wide, columns), here = least(end - column, size - k);
            const float divisor = divisors[row / tall * across + block];
            look_up(x + first + k, here, divisor, table, codes + k);
            k += here;
            column += here;
            block += column == end;
            if (column == columns) ++row, column = block = 0;
        }
    });
}

// A code is `values[n]` where n of the `steps` numbers in `at` are no larger than an element; `at`
// is (steps) or, where they are those of each row, (rows, steps). Returns whether x holds a NaN.
extern "C" bool encode_by_steps(const float* x, long count, long columns, const float* at,
                                long steps, bool each_row, const uint8_t* values, int width,
                                uint8_t* out, int threads) {
    return encode_tiles(x, count, width, out, threads, [=](long first, long size, uint8_t* codes) {
        for (long k = first; k < first + size;) {
            const long row = k / columns;
            const long here = each_row ? least((row + 1) * columns, first + size) - k : size;
            const float* own = each_row ? at + row * steps : at;
            uint8_t* to = codes + (k - first);
            memset(to, values[0], here);
            for (long n = 0; n < steps; ++n)
                pass_step(x + k, here, own[n], values[n + 1] ^ values[n], to);
            k += here;
        }
    });
}

// The largest finite magnitude of each block of `size` elements of a row, the last one shorter.
extern "C" void largest_of_blocks(const float* x, long rows, long columns, long size, float* out,
                                  int threads) {
    const long across = (columns + size - 1) / size;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; ++row)
        for (long block = 0; block < across; ++block) {
            const long first = block * size, count = least(size, columns - first);
            const int32_t most = largest(x + row * columns + first, count);
            memcpy(out + row * across + block, &most, sizeof(most));
        }
}

// Integers of 1, 4 or 8 bytes, below 2**width, as a stream of bits (count * width / 8), rounded up.
extern "C" void pack_codes(const void* codes, long count, int bytes, int width, uint8_t* out) {
    const uint8_t* end = out + (count * width + 7) / 8;
    if (bytes == 1) {
        const uint8_t* from = static_cast<const uint8_t*>(codes);
        for (long first = 0; first < count; first += TILE) {
            uint8_t packed[TILE + 8];
            const long size = least(TILE, count - first);
            pack_bytes(from + first, size, width, packed);
            memcpy(out + first / 8 * width, packed, (size * width + 7) / 8);
        }
    } else if (bytes == 4) {
        pack_wide(static_cast<const uint32_t*>(codes), count, width, out, end);
    } else {
        pack_wide(static_cast<const uint64_t*>(codes), count, width, out, end);
    }
}

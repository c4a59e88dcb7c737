// Values of packed codes in one pass: the bits of a code, what it stands for, the factor of a block.
//
// Eight codes are a whole number of bytes, which one shuffle puts into eight lanes, whatever their
// width. For CPUs with AVX2 and F16C.

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

namespace {

constexpr long LANES = 8;
constexpr long AT_ONCE = 1024;        // elements whose factors are written down, in the first cache
constexpr long OF_THREAD = 1L << 14;  // elements that are worth a thread

enum Kind { FLOAT32, BFLOAT16, FLOAT16 };
enum Rule { TABLE, MULTIPLES, FLOATS };

// What codes stand for: entries of a table, or numbers that a rule gives, the same but faster.
struct Rules {
    int rule;
    const float* table;  // (tables, 2**width)
    long tables;
    float step;     // of MULTIPLES
    int sign;       // whether those are in two's complement
    int mantissa;   // bits, of FLOATS
    int leading;    // whether fields of exponents above 0 have a leading one
    int exponent;   // of the smallest, by the bias of float32
};

struct Matrix {
    const uint8_t* codes;
    long codes_size;
    int width;
    Rules rules;
    const float* factors;  // by shared code, or none
    const uint8_t* shared;
    long shared_size;
    int shared_width;
    long tile_rows, tile_columns;
    float limit;
    const uint8_t* mask;  // a bit for each element, of which only those of bit 1 have a code; or none
    void* out;
    long rows, columns;
};

long divided_up(long a, long b) { return (a + b - 1) / b; }
long smaller(long a, long b) { return a < b ? a : b; }

// Where eight codes that begin at this bit of a byte lie.
struct Lanes {
    __m256i from, shift, mask;

    void set(int begin, int width) {
        alignas(32) uint8_t bytes[4 * LANES];
        alignas(32) int32_t shifts[LANES];
        for (int lane = 0; lane < LANES; ++lane) {
            const int bit = begin + lane * width;
            shifts[lane] = bit % 8;
            for (int i = 0; i < 4; ++i)  // 0x80 gives a zero
                bytes[4 * lane + i] = bit / 8 + i < 16 ? bit / 8 + i : 0x80;
        }
        from = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
        shift = _mm256_load_si256(reinterpret_cast<const __m256i*>(shifts));
        mask = _mm256_set1_epi32((1 << width) - 1);
    }

    __m256i operator()(__m128i raw) const {
        const __m256i lanes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(raw), from);
        return _mm256_and_si256(_mm256_srlv_epi32(lanes, shift), mask);
    }
};

// Sixteen bytes; what is beyond the last one is zero.
__m128i sixteen(const uint8_t* bytes, long size, long first) {
    if (first + 16 <= size)
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + first));
    alignas(16) uint8_t rest[16] = {};
    if (first < size) memcpy(rest, bytes + first, size - first);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(rest));
}

// Eight bits from this one on; what is beyond the last byte is zero.
int eight_bits(const uint8_t* bytes, long size, unsigned long bit) {
    const long byte = bit / 8;
    const int low = byte < size ? bytes[byte] : 0, high = byte + 1 < size ? bytes[byte + 1] : 0;
    return (low | high << 8) >> bit % 8 & 255;
}

// A table of at most eight entries.
class Eight {
   public:
    Eight(const float* table, long size) {
        alignas(32) float padded[LANES] = {};
        memcpy(padded, table, size * sizeof(float));
        entries_ = _mm256_load_ps(padded);
    }
    Eight(const Matrix& m, long row)
        : Eight(m.rules.table + (m.rules.tables > 1 ? row << m.width : 0), 1L << m.width) {}
    __m256 operator()(__m256i codes) const { return _mm256_permutevar8x32_ps(entries_, codes); }

   private:
    __m256 entries_;
};

// Of sixteen.
class Sixteen {
   public:
    Sixteen(const Matrix& m, long row)
        : low_(m.rules.table + (m.rules.tables > 1 ? row << 4 : 0), LANES),
          high_(m.rules.table + (m.rules.tables > 1 ? row << 4 : 0) + LANES, LANES) {}
    __m256 operator()(__m256i codes) const {
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));  // bit 3 as a sign
        return _mm256_blendv_ps(low_(codes), high_(codes), upper);
    }

   private:
    Eight low_, high_;
};

// Of any number.
class Many {
   public:
    Many(const Matrix& m, long row)
        : table_(m.rules.table + (m.rules.tables > 1 ? row << m.width : 0)) {}
    __m256 operator()(__m256i codes) const { return _mm256_i32gather_ps(table_, codes, 4); }

   private:
    const float* table_;
};

// Integers times a step.
class Multiples {
   public:
    Multiples(const Matrix& m, long)
        : unused_(_mm_cvtsi32_si128(m.rules.sign ? 32 - m.width : 0)),
          step_(_mm256_set1_ps(m.rules.step)) {}
    __m256 operator()(__m256i codes) const {
        const __m256i whole = _mm256_sra_epi32(_mm256_sll_epi32(codes, unused_), unused_);
        return _mm256_mul_ps(_mm256_cvtepi32_ps(whole), step_);
    }

   private:
    __m128i unused_;  // bits above the sign
    __m256 step_;
};

// A sign, a field of the exponent and a mantissa, with a leading one where the field is not 0; or
// without. No subnormal number is calculated with, which would be slow on some CPUs.
template <bool leading>
class Floats {
   public:
    Floats(const Matrix& m, long)
        : above_(_mm_cvtsi32_si128(32 - m.width)),
          mantissa_(_mm_cvtsi32_si128(m.rules.mantissa)),
          digits_(_mm256_set1_epi32((1 << m.rules.mantissa) - 1)),
          one_(_mm256_set1_epi32(1 << m.rules.mantissa)),
          magnitude_(_mm256_set1_epi32((1 << (m.width - 1)) - 1)),
          exponent_(_mm256_set1_epi32((m.rules.exponent - leading) << 23)) {}
    __m256 operator()(__m256i codes) const {
        const __m256i magnitude = _mm256_and_si256(codes, magnitude_);
        __m256i whole = _mm256_and_si256(codes, digits_);
        __m256i field = _mm256_srl_epi32(magnitude, mantissa_);
        if constexpr (leading) {
            const __m256i none = _mm256_cmpgt_epi32(one_, magnitude);  // -1 where the field is 0
            whole = _mm256_or_si256(whole, _mm256_andnot_si256(none, one_));
            field = _mm256_sub_epi32(field, none);
        }
        const __m256i sign = _mm256_or_si256(_mm256_sll_epi32(codes, above_), _mm256_set1_epi32(1));
        const __m256i power = _mm256_add_epi32(_mm256_slli_epi32(field, 23), exponent_);
        return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sign_epi32(whole, sign)),
                             _mm256_castsi256_ps(power));
    }

   private:
    __m128i above_, mantissa_;
    __m256i digits_, one_, magnitude_, exponent_;
};

// The factors of some elements of a row, at most AT_ONCE. They lie in memory of their own: what is
// stored to may be anything, so that members would be read again for each vector.
struct FactorMemory {
    alignas(32) float of_block[AT_ONCE + LANES];
    alignas(32) float each[AT_ONCE + LANES];
};

class Factors {
   public:
    Factors(const Matrix& m, const Lanes* at, long row, long column, long count, FactorMemory& memory)
        : of_block_(memory.of_block), each_(memory.each) {
        const long tile = m.tile_columns, before = column / tile;
        const long first = row / m.tile_rows * divided_up(m.columns, tile) + before;
        const long blocks = divided_up(column + count, tile) - before;
        for (long b = 0; b < blocks; b += LANES) {
            const unsigned long bit = (first + b) * m.shared_width;
            const __m256i codes = at[bit % 8](sixteen(m.shared, m.shared_size, bit / 8));
            _mm256_store_ps(memory.of_block + b, _mm256_i32gather_ps(m.factors, codes, 4));
        }
        offset_ = column - before * tile;
        shift_ = blocks == 1 ? 63 : __builtin_ctzl(tile);
        // Whether eight elements from a multiple of eight on have one factor.
        alike_ = blocks == 1 || ((tile & (tile - 1)) == 0 && tile >= LANES && offset_ % LANES == 0);
        if (!alike_) spread(memory, blocks, tile, count);
    }
    // Of eight elements from this one on, a multiple of eight.
    __m256 operator()(long i) const {
        return alike_ ? _mm256_broadcast_ss(of_block_ + ((offset_ + i) >> shift_))
                      : _mm256_load_ps(each_ + i);
    }

   private:
    void spread(FactorMemory& memory, long blocks, long tile, long count) const {
        long end = tile - offset_;  // of the block
        for (long b = 0, i = 0; b < blocks; ++b, end += tile) {
            const __m256 factor = _mm256_broadcast_ss(memory.of_block + b);
            const long stop = smaller(end, count);
            // Whole vectors: what they write beyond a block is overwritten by the next.
            for (; i < stop; i += LANES) _mm256_storeu_ps(memory.each + i, factor);
            i = stop;
        }
    }

    const float *of_block_, *each_;
    long offset_;
    int shift_;
    bool alike_;
};

// No factors.
struct Ones {
    Ones(const Matrix&, const Lanes*, long, long, long, FactorMemory&) {}
    __m256 operator()(long) const { return _mm256_set1_ps(1.0f); }
};

// How many of the elements before this one, a multiple of 8, have a code.
long codes_before(const uint8_t* mask, long element) {
    long count = 0, byte = 0;
    for (; byte + 8 <= element / 8; byte += 8) {
        uint64_t bits;
        memcpy(&bits, mask + byte, sizeof(bits));
        count += __builtin_popcountll(bits);
    }
    for (; byte < element / 8; ++byte) count += __builtin_popcount(mask[byte]);
    return count;
}

// By the bits of eight elements, which of the next codes each element takes.
struct Places {
    uint8_t of[256][LANES];
    constexpr Places() : of() {
        for (int bits = 0; bits < 256; ++bits)
            for (int lane = 0, next = 0; lane < LANES; ++lane) {
                of[bits][lane] = static_cast<uint8_t>(next % LANES);
                next += bits >> lane & 1;
            }
    }
};
constexpr Places PLACES;

template <Kind kind>
void store(__m256 values, void* out, long index, long count) {
    if constexpr (kind == FLOAT32) {
        float* to = static_cast<float*>(out) + index;
        if (count >= LANES) return _mm256_storeu_ps(to, values);
        alignas(32) float rest[LANES];
        _mm256_store_ps(rest, values);
        memcpy(to, rest, count * sizeof(float));
    } else {
        __m128i halves;
        if constexpr (kind == FLOAT16) {
            halves = _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
        } else {  // to the nearest, ties to even; added to, some NaN would become infinite or zero
            const __m256i bits = _mm256_castps_si256(values);
            const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
            const __m256 rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, half));
            const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
            const __m256 is_nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
            const __m256i whole = _mm256_castps_si256(_mm256_blendv_ps(rounded, nan, is_nan));
            const __m256i upper = _mm256_srli_epi32(whole, 16);
            halves = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
        }
        uint16_t* to = static_cast<uint16_t*>(out) + index;
        if (count >= LANES) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
        alignas(16) uint16_t rest[LANES];
        _mm_store_si128(reinterpret_cast<__m128i*>(rest), halves);
        memcpy(to, rest, count * sizeof(uint16_t));
    }
}

// The elements from `begin`, a multiple of 8, to `end`.
template <typename Values, Kind kind, bool scaled>
void decode_part(const Matrix& m, const Lanes* at, const Lanes* at_shared, long begin, long end) {
    constexpr bool saturates = scaled || kind != FLOAT32;
    const long mask_size = divided_up(m.rows * m.columns, 8);
    const __m256i bit_of_lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256 most = _mm256_set1_ps(m.limit), least = _mm256_set1_ps(-m.limit);
    const auto saturated = [=](__m256 x) {  // a NaN comes second, and stays
        return _mm256_min_ps(most, _mm256_max_ps(least, x));
    };
    FactorMemory memory;
    void* const out = m.out;
    unsigned long code = m.mask == nullptr ? begin : codes_before(m.mask, begin);
    for (long element = begin; element < end;) {
        const long row = element / m.columns, column = element % m.columns;
        long count = smaller(end - element, m.columns - column), i = 0;
        if constexpr (scaled) count = smaller(count, AT_ONCE);
        const std::conditional_t<scaled, Factors, Ones> factors(m, at_shared, row, column, count,
                                                                memory);
        const Values values_of(m, row);
        if (m.mask == nullptr) {  // as many eights as can be read whole
            const unsigned long bit = code * m.width;
            const long byte = bit / 8, spare = m.codes_size - 16 - byte;
            const long whole = spare < 0 ? 0 : smaller(count / LANES, spare / m.width + 1);
            const Lanes lanes = at[bit % 8];
            const uint8_t* from = m.codes + byte;
            const bool bytes = m.width == 8;
            for (; i < whole * LANES; i += LANES, from += m.width) {
                const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
                __m256 values = values_of(bytes ? _mm256_cvtepu8_epi32(raw) : lanes(raw));
                if constexpr (scaled) values = _mm256_mul_ps(values, factors(i));
                if constexpr (saturates) values = saturated(values);
                store<kind>(values, out, element + i, LANES);
            }
            code += i;
        }
        for (; i < count; i += LANES) {
            const long here = smaller(LANES, count - i);
            const unsigned long bit = code * m.width;
            __m256i codes = at[bit % 8](sixteen(m.codes, m.codes_size, bit / 8));
            __m256i kept = _mm256_set1_epi32(-1);
            if (m.mask != nullptr) {
                const int bits = eight_bits(m.mask, mask_size, element + i) & ((1 << here) - 1);
                const __m128i places =
                    _mm_loadl_epi64(reinterpret_cast<const __m128i*>(PLACES.of[bits]));
                codes = _mm256_permutevar8x32_epi32(codes, _mm256_cvtepu8_epi32(places));
                kept = _mm256_and_si256(_mm256_set1_epi32(bits), bit_of_lane);
                kept = _mm256_cmpeq_epi32(kept, bit_of_lane);
                code += __builtin_popcount(bits);
            } else {
                code += here;
            }
            __m256 values = values_of(codes);
            if constexpr (scaled) values = _mm256_mul_ps(values, factors(i));
            if constexpr (saturates) values = saturated(values);
            store<kind>(_mm256_and_ps(values, _mm256_castsi256_ps(kept)), out, element + i, here);
        }
        element += count;
    }
}

using DecodePart = void (*)(const Matrix&, const Lanes*, const Lanes*, long, long);

template <typename Values, bool scaled>
DecodePart of_kind(Kind kind) {
    return kind == FLOAT32    ? decode_part<Values, FLOAT32, scaled>
           : kind == BFLOAT16 ? decode_part<Values, BFLOAT16, scaled>
                              : decode_part<Values, FLOAT16, scaled>;
}

template <typename Values>
DecodePart with_factors(const Matrix& m, Kind kind) {
    return m.factors == nullptr ? of_kind<Values, false>(kind) : of_kind<Values, true>(kind);
}

DecodePart best(const Matrix& m, Kind kind) {
    if (m.rules.rule == MULTIPLES) return with_factors<Multiples>(m, kind);
    if (m.rules.rule == FLOATS)
        return m.rules.leading ? with_factors<Floats<true>>(m, kind)
                               : with_factors<Floats<false>>(m, kind);
    return m.width <= 3   ? with_factors<Eight>(m, kind)
           : m.width == 4 ? with_factors<Sixteen>(m, kind)
                          : with_factors<Many>(m, kind);
}

}  // namespace

// With `factors` a value is what its code stands for times that of its block, at most `limit`.
extern "C" void decode(const Matrix* matrix, int kind, int threads) {
    Matrix m = *matrix;
    const long elements = m.rows * m.columns;
    if (m.rules.tables <= 1 && m.factors == nullptr) m.rows = 1, m.columns = elements;
    const DecodePart part = best(m, static_cast<Kind>(kind));
    Lanes at[8], at_shared[8];
    for (int bit = 0; bit < 8; ++bit) {
        at[bit].set(bit, m.width);
        at_shared[bit].set(bit, m.shared_width);
    }
    const long parts = smaller(threads, divided_up(elements, OF_THREAD));
    const long size = divided_up(divided_up(elements, parts), LANES) * LANES;
#pragma omp parallel for num_threads(parts) schedule(static)
    for (long begin = 0; begin < elements; begin += size) {
        // What is subnormal counts, whatever the thread does elsewhere.
        const unsigned int mode = _mm_getcsr();
        _mm_setcsr(mode & ~0x8040u);
        part(m, at, at_shared, begin, smaller(begin + size, elements));
        _mm_setcsr(mode);
    }
}

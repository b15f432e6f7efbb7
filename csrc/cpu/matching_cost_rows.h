// Costs of one row of pixels for some consecutive disparities, from planes of that row: colours, gradient, census. What
// a matching cost is, without where it goes: matching_cost.cpp stores a volume of it.
//
// Floor of one cost, colours with gradient and census of two halves: 6 loads of 4 bytes from the first-level cache
// (the other image's; this one's stay in registers for all disparities), 15 operations for the differences and 20 to
// count the bits, all in vectors: with AVX-512 below what it takes to store the cost in memory.
#pragma once
#include "fastseg/cpu/vec_math.h"
#include "fastseg/matching_cost.h"

namespace fastseg::FASTSEG_ISA {

// Which planes a cost is made from, in this order: colours, the gradient, halves of census words.
template <int Colours, bool Gradient, int Halves, bool AdCensus>
struct CostTerms {
  static constexpr int colours = Colours, halves = Halves, planes = Colours + Gradient + Halves;
  static constexpr bool gradient = Gradient, ad_census = AdCensus;
};

// Calls body with the CostTerms of a call; terms of weight 0 have no planes. A census of up to 32 bits has two halves
// too, the second one of zeros.
template <class Body>
inline void with_cost_terms(const MatchingCost& args, const Body& body) {
  const bool colours = args.ad_census || args.ad_weight > 0;
  const bool gradient = !args.ad_census && args.gradient_weight > 0;
  const bool census = args.ad_census || args.census_weight > 0;
  const bool three = args.window_rows * args.window_columns - 1 > 64;
  const auto with_census = [&](auto c, auto g, auto a) {
    constexpr int C = decltype(c)::value;
    constexpr bool G = decltype(g)::value, A = decltype(a)::value;
    if (census && three) return body(CostTerms<C, G, 3, A>{});
    if (census) return body(CostTerms<C, G, 2, A>{});
    if constexpr (!A && (C > 0 || G)) body(CostTerms<C, G, 0, A>{});
  };
  const auto with_colours = [&](auto c) {
    if (args.ad_census) {
      if constexpr (decltype(c)::value > 0) with_census(c, std::false_type{}, std::true_type{});
    } else if (gradient) {
      with_census(c, std::true_type{}, std::false_type{});
    } else {
      with_census(c, std::false_type{}, std::false_type{});
    }
  };
  if (!colours) return with_colours(std::integral_constant<int, 0>{});
  if (args.channels == 1) return with_colours(std::integral_constant<int, 1>{});
  with_colours(std::integral_constant<int, 3>{});
}

// Factors and limits of the terms, for differences as the planes have them: sums over colours, bytes not divided by
// 255, gradients neither halved nor divided by what grey is scaled by.
struct CostFactors {
  float ad, ad_most, gradient, gradient_most, census;
  float bits;
  float outside_colour, outside_gradient;

  CostFactors(const MatchingCost& args, double grey_scale) {
    const double unit = args.left.type == Pixel::uint8 ? 255 : 1, sum = unit * double(args.channels);
    const double slope = 2 * unit * grey_scale;
    bits = float(args.window_rows * args.window_columns - 1);
    ad = float(args.ad_census ? -1 / (args.ad_scale * sum) : args.ad_weight / sum);
    ad_most = float(args.ad_threshold * sum);
    gradient = float(args.gradient_weight / slope);
    gradient_most = float(args.gradient_threshold * slope);
    census = float(args.ad_census ? -1 / args.census_scale : args.census_weight / double(bits));
    outside_colour = float(args.outside * unit);
    outside_gradient = float(args.outside * slope);
  }
};

inline Vec<float> magnitude(Vec<float> v) { return (Vec<float>)((WordVec)v & 0x7fffffffu); }

inline Vec<float> smaller(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Vec<float>)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}

// Ones among the bits of words, added up over the halves of a lane. Processors that count them in one instruction are
// few: two look-ups a byte do.
template <int Halves>
inline Vec<float> count_ones(const WordVec (&words)[Halves]) {
  typedef int32_t IntVec __attribute__((vector_size(vector_bytes)));
#if defined(__AVX512BW__)
  const __m512i ones_of = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_set1_epi8(15);
  __m512i bytes = _mm512_setzero_si512();
#pragma GCC unroll 3
  for (int h = 0; h < Halves; ++h) {
    const __m512i word = (__m512i)words[h];
    const __m512i right = _mm512_shuffle_epi8(ones_of, _mm512_and_si512(word, low));
    const __m512i left = _mm512_shuffle_epi8(ones_of, _mm512_and_si512(_mm512_srli_epi16(word, 4), low));
    bytes = _mm512_add_epi8(bytes, _mm512_add_epi8(right, left));
  }
  const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1));
  const IntVec sums = (IntVec)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  const __m256i ones_of = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_set1_epi8(15);
  __m256i bytes = _mm256_setzero_si256();
#pragma GCC unroll 3
  for (int h = 0; h < Halves; ++h) {
    const __m256i word = (__m256i)words[h];
    const __m256i right = _mm256_shuffle_epi8(ones_of, _mm256_and_si256(word, low));
    const __m256i left = _mm256_shuffle_epi8(ones_of, _mm256_and_si256(_mm256_srli_epi16(word, 4), low));
    bytes = _mm256_add_epi8(bytes, _mm256_add_epi8(right, left));
  }
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  const IntVec sums = (IntVec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  WordVec bytes{};
#pragma GCC unroll 3
  for (int h = 0; h < Halves; ++h) {
    WordVec word = words[h] - ((words[h] >> 1) & 0x55555555u);
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    bytes += (word + (word >> 4)) & 0x0f0f0f0fu;
  }
  bytes += bytes >> 16;
  const IntVec sums = (IntVec)((bytes + (bytes >> 8)) & 0xffu);
#endif
  return __builtin_convertvector(sums, Vec<float>);
}

template <class Terms>
inline Vec<float> combine(const CostFactors& k, Vec<float> ad, Vec<float> gradient, Vec<float> ones) {
  using V = Vec<float>;
  if constexpr (Terms::ad_census) return 2.0f - exp(ones * k.census) - exp(ad * k.ad);
  V cost{};
  if constexpr (Terms::colours > 0) cost = smaller(ad, broadcast<V>(k.ad_most)) * k.ad;
  if constexpr (Terms::gradient) cost += smaller(gradient, broadcast<V>(k.gradient_most)) * k.gradient;
  if constexpr (Terms::halves > 0) cost += ones * k.census;
  return cost;
}

// The planes of one row, plane p from `p * pitch` on, pixel x at x. Halves of census words lie in them as they are.
struct CostRow {
  const float* base;     // the image whose pixels have the costs
  const float* other;    // readable for `most_disparities + lanes` numbers before the first and after the last pixel
  const float* outside;  // [width]: costs where the matching pixel lies outside the other image
  int64_t pitch, width;
  int direction;  // base pixel x matches other pixel x - direction * d
};

constexpr int64_t most_disparities = 16;  // of one call

// Costs of base pixels whose matching pixel lies outside: the same for every disparity.
template <class Terms>
inline void outside_costs(const CostRow& row, const CostFactors& k, float* to) {
  for (int64_t x = 0; x < row.width; x += lanes<float>) {
    Vec<float> ad{}, gradient{};
    for (int c = 0; c < Terms::colours; ++c) ad += magnitude(load(row.base + c * row.pitch + x) - k.outside_colour);
    if constexpr (Terms::gradient)
      gradient = magnitude(load(row.base + Terms::colours * row.pitch + x) - k.outside_gradient);
    store(to + x, combine<Terms>(k, ad, gradient, broadcast<Vec<float>>(k.bits)));
  }
}

// Costs for `count` disparities from `first` on, up to most_disparities: cost i of pixel x to out[i * out_pitch + x].
// Up to a vector beyond the row is written too, with anything. between() is called after each vector of pixels: what
// has to wait for memory can be done there, a little at a time.
template <class Terms, class Between>
inline void row_costs(const CostRow& row, const CostFactors& factors, int64_t first, int64_t count, float* out,
                      int64_t out_pitch, const Between& between) {
  constexpr int C = Terms::colours, H = Terms::halves, L = lanes<float>;
  const CostFactors k = factors;  // a copy that no store can change: they stay in registers
  const int64_t width = row.width, pitch = row.pitch;
  const auto shift = [&](int64_t i) { return row.direction * (first + i); };
  const auto begin = [&](int64_t i) { return shift(i) > 0 ? shift(i) : 0; };
  const auto end = [&](int64_t i) { return shift(i) < 0 ? width + shift(i) : width; };
  const int64_t last = count - 1;
  const int64_t from = begin(0) < begin(last) ? begin(0) : begin(last), to = end(0) > end(last) ? end(0) : end(last);
  for (int64_t x = from; x < to; x += L) {
    Vec<float> colours[C + 1], slope{};  // + 1: no array is empty
    WordVec words[H + 1];
#pragma GCC unroll 3
    for (int c = 0; c < C; ++c) colours[c] = load(row.base + c * pitch + x);
    if constexpr (Terms::gradient) slope = load(row.base + C * pitch + x);
#pragma GCC unroll 3
    for (int h = 0; h < H; ++h) std::memcpy(&words[h], row.base + (C + Terms::gradient + h) * pitch + x, vector_bytes);
    const float* there = row.other + x - shift(0);
    float* result = out + x;
    for (int64_t i = 0; i < count; ++i, there -= row.direction, result += out_pitch) {
      Vec<float> ad{}, gradient{}, ones{};
#pragma GCC unroll 3
      for (int c = 0; c < C; ++c) ad += magnitude(colours[c] - load(there + c * pitch));
      if constexpr (Terms::gradient) gradient = magnitude(slope - load(there + C * pitch));
      if constexpr (H > 0) {
        WordVec differ[H];
#pragma GCC unroll 3
        for (int h = 0; h < H; ++h) {
          std::memcpy(&differ[h], there + (C + Terms::gradient + h) * pitch, vector_bytes);
          differ[h] ^= words[h];
        }
        ones = count_ones(differ);
      }
      store(result, combine<Terms>(k, ad, gradient, ones));
    }
    between();
  }
  for (int64_t i = 0; i < count; ++i) {
    float* line = out + i * out_pitch;
    std::memcpy(line, row.outside, size_t(begin(i)) * sizeof(float));
    std::memcpy(line + end(i), row.outside + end(i), size_t(width - end(i)) * sizeof(float));
  }
}

}  // namespace fastseg::FASTSEG_ISA

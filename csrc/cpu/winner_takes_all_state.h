// What is known of some pixels, one in each lane of the vectors, after the slices that have been read.
#pragma once
#include "fastseg/cpu/pixels.h"
#include "fastseg/winner_takes_all.h"

namespace fastseg::FASTSEG_ISA {

// Integers as wide as the numbers: the type of their comparisons.
template <class A>
using Integers = decltype(Vec<A>{} < Vec<A>{});
template <class A>
using Integer = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// `count` elements, zeros behind them; or a whole vector.
template <class T>
inline Vec<compute_t<T>> load_some(const T* p, int64_t count) {
  constexpr int L = lanes<compute_t<T>>;
  if (count >= L) return load(p);
  T part[L] = {};
  std::memcpy(part, p, size_t(count) * sizeof(T));
  return load(part);
}
template <class A>
inline Integers<A> load_integers(const int32_t* p, int64_t count) {
  typedef int32_t Words __attribute__((vector_size(4 * lanes<A>)));
  Words words = {};
  std::memcpy(&words, p, size_t(count < lanes<A> ? count : lanes<A>) * 4);
  return __builtin_convertvector(words, Integers<A>);
}
template <class A>
inline void store_some(A* p, Vec<A> v, int64_t count) {
  std::memcpy(p, &v, size_t(count < lanes<A> ? count : lanes<A>) * sizeof(A));
}
template <class A>
inline void store_integers(int32_t* p, Integers<A> v, int64_t count) {
  typedef int32_t Words __attribute__((vector_size(4 * lanes<A>)));
  const Words words = __builtin_convertvector(v, Words);
  std::memcpy(p, &words, size_t(count < lanes<A> ? count : lanes<A>) * 4);
}

// Which slices can win: all, or those near enough.
template <class A, bool Near>
struct Candidates {
  typedef std::make_unsigned_t<Integer<A>> Unsigned __attribute__((vector_size(vector_bytes)));

  // Differences wrap around, but neither slices nor reach are above 2^30: none comes back into the window.
  Integers<A> among(Integer<A> slice) const { return Unsigned(slice + reach - near) <= Unsigned{} + 2 * reach; }

  Integers<A> near;
  std::make_unsigned_t<Integer<A>> reach;
};

template <class A, bool Near>
struct WinnerState {
  static constexpr A none = A(__builtin_inff());
  static constexpr Integer<A> most = ~(Integer<A>(1) << (8 * sizeof(A) - 1));  // all bits but the sign

  // Before the first slice. No winner has an index below -1, so that slice 0 does not follow one.
  void clear() {
    index = Integers<A>{} - 2;
    cost = before = after = second = last = earlier = broadcast<Vec<A>>(none);
    largest = Integers<A>{};
  }

  // After slices 0 to first - 1, of which `earlier` is found again: all but the last one.
  void resume(const WinnerPlanes& from, int64_t at, int64_t count, int64_t first,
              const Candidates<A, Near>& candidates) {
    index = load_integers<A>(from.index + at, count);
    cost = load_some(static_cast<const A*>(from.cost) + at, count);
    before = load_some(static_cast<const A*>(from.before) + at, count);
    after = load_some(static_cast<const A*>(from.after) + at, count);
    second = load_some(static_cast<const A*>(from.second) + at, count);
    last = load_some(static_cast<const A*>(from.last) + at, count);
    auto lower = before < second;
    if constexpr (Near) lower &= candidates.among(Integer<A>(first - 2));
    earlier = follows(first) ? (lower ? before : second) : cost;
    largest = Integers<A>{};
  }

  // One more slice; where it `follows` the winner, to be told once and then kept here. The least cost so far but for
  // the last slice, `earlier`, is second where this slice wins: when the last one had been least, it is its neighbour.
  void take(Vec<A> c, Integer<A> slice, const Candidates<A, Near>& candidates, Integers<A>& follows) {
    Integers<A> wins = c < cost, beside = follows;
    if constexpr (Near) {
      const Integers<A> among = candidates.among(slice);
      wins &= among;
      beside |= ~among;
    }
    const Vec<A> challenger = beside ? broadcast<Vec<A>>(none) : c;
    const Vec<A> lower = challenger < second ? challenger : second;
    second = wins ? earlier : lower;
    before = wins ? last : before;
    after = follows ? c : after;
    earlier = cost;
    cost = wins ? c : cost;
    index = wins ? Integers<A>{} + slice : index;
    const Integers<A> size = (Integers<A>)c & most;
    largest = size > largest ? size : largest;
    last = c;
    follows = wins;
  }
  Integers<A> follows(int64_t slice) const { return index == Integer<A>(slice - 1); }

  void finish(const WinnerPlanes& to, int64_t at, int64_t count, int64_t slices) const {
    const Integers<A> nobody = Integers<A>{} - 1;
    const Vec<A> infinity = broadcast<Vec<A>>(none);
    store_integers<A>(to.index + at, index < nobody ? nobody : index, count);
    store_some(static_cast<A*>(to.cost) + at, largest > (Integers<A>)infinity ? infinity - infinity : cost, count);
    store_some(static_cast<A*>(to.before) + at, before, count);
    // What followed an earlier winner is still there.
    store_some(static_cast<A*>(to.after) + at, follows(slices) ? infinity : after, count);
    store_some(static_cast<A*>(to.second) + at, second, count);
    store_some(static_cast<A*>(to.last) + at, last, count);
  }

  Integers<A> index;
  Vec<A> cost, before, after, second, last;
  Vec<A> earlier;  // least cost of the candidates, but for the last slice
  // Of the costs, without signs and as integers: NaN is above infinity. It wins nothing, and is found at the end.
  Integers<A> largest;
};

}  // namespace fastseg::FASTSEG_ISA

#include "fastseg/cpu/memory.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

#include "memory_pages.h"

namespace fastseg::cpu {
namespace {

int64_t default_limit() {
  constexpr int64_t at_most = int64_t(2) << 30;
  const int64_t memory = physical_memory();
  return memory > 0 ? std::min(memory / 8, at_most) : at_most;
}

// Which memory is free, by address: the blocks that died, what was cut off them, and addresses without memory.
class Cache {
 public:
  char* take(int64_t capacity) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Place place = find(capacity);
    if (!place.data) {
      const Range range = reserve(capacity);
      add_closed(range.data, range.bytes);
      place = find(capacity);
    }
    char* const fresh = place.data + capacity - place.fresh;
    if (place.fresh > 0) open_pages(fresh, place.fresh);
    cut_out(place.data, capacity);
    move_here(fresh, place.fresh);
    return place.data;
  }

  void give(char* data, int64_t capacity) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kept_ + capacity > limit_) {
      close_pages(data, capacity);
      add_closed(data, capacity);
      return;
    }
    remember(data, {capacity, ++given_, State::warm});
    cool_down();
  }

  void shrink_to(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (kept_ > bytes) {
      const auto piece = oldest([](State state) { return state != State::closed; });
      const auto [data, capacity] = std::pair(piece->first, piece->second.bytes);
      forget(piece);
      close_pages(data, capacity);
      add_closed(data, capacity);
    }
  }

  void set_limit(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      limit_ = bytes;
    }
    shrink_to(bytes);
  }

  int64_t limit() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return limit_;
  }

  int64_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_;
  }

 private:
  enum class State { closed, offered, warm };  // no memory; memory that the system may take; memory
  struct Piece {
    int64_t bytes;
    uint64_t given;  // counts up
    State state;
  };
  using Pieces = std::map<char*, Piece>;

  struct Place {
    char* data;     // the start of a piece
    int64_t fresh;  // bytes at its end that have no memory yet
  };

  // Free addresses that need the least new memory, and among those in the smallest gap; nullptr where there are none.
  Place find(int64_t capacity) {
    constexpr int64_t most = std::numeric_limits<int64_t>::max();
    Place best{nullptr, 0};
    std::pair<int64_t, int64_t> least{most, most};  // new memory, what stays free of the gap
    char *start = nullptr, *end = nullptr;          // of pieces with memory, one after the other
    const auto consider = [&](int64_t fresh, int64_t rest) {
      if (rest < 0 || std::pair(fresh, rest) >= least) return;
      least = {fresh, rest};
      best = {start, fresh};
    };
    for (auto piece = pieces_.begin(); piece != pieces_.end(); ++piece) {
      const auto& [data, facts] = *piece;
      if (data != end) start = data;
      end = data + facts.bytes;
      const auto next = std::next(piece);
      if (facts.state == State::closed) {
        const int64_t fresh = capacity - (data - start);
        if (fresh > 0) consider(fresh, facts.bytes - fresh);
        start = end;
      } else if (next == pieces_.end() || next->first != end || next->second.state == State::closed) {
        consider(0, end - start - capacity);
      }
    }
    return best;
  }

  void cut_out(char* data, int64_t capacity) {
    char* const end = data + capacity;
    while (data < end) {
      const auto found = pieces_.find(data);
      const Piece piece = found->second;
      const int64_t bytes = std::min(piece.bytes, int64_t(end - data));
      forget(found);
      if (bytes < piece.bytes) remember(data + bytes, {piece.bytes - bytes, piece.given, piece.state});
      data += bytes;
    }
  }

  // Memory of pieces that are too small or lie apart serves open addresses before the system is asked for more.
  void move_here(char* data, int64_t bytes) {
    while (bytes > 0 && kept_ > 0) {
      const auto found = oldest([](State state) { return state != State::closed; });
      char* const from = found->first;
      const Piece piece = found->second;
      const int64_t count = std::min(piece.bytes, bytes);
      if (!move_pages(from, data, count)) return;
      forget(found);
      if (count < piece.bytes) remember(from + count, {piece.bytes - count, piece.given, piece.state});
      add_closed(from, count);
      data += count;
      bytes -= count;
    }
  }

  // Offers the oldest pieces to the system until a quarter of the limit is left. Not all at once: offering a piece and
  // touching it again costs as much as filling it (measured: 110 us for 8 MB).
  void cool_down() {
    while (warm_ > limit_ / 4) {
      const auto piece = oldest([](State state) { return state == State::warm; });
      piece->second.state = State::offered;
      warm_ -= piece->second.bytes;
      offer_pages(piece->first, piece->second.bytes);
    }
  }

  template <class Wanted>
  Pieces::iterator oldest(Wanted wanted) {
    auto best = pieces_.end();
    for (auto piece = pieces_.begin(); piece != pieces_.end(); ++piece)
      if (wanted(piece->second.state) && (best == pieces_.end() || piece->second.given < best->second.given))
        best = piece;
    return best;
  }

  void remember(char* data, Piece piece) {
    pieces_.emplace(data, piece);
    if (piece.state != State::closed) kept_ += piece.bytes;
    if (piece.state == State::warm) warm_ += piece.bytes;
  }

  void forget(Pieces::iterator piece) {
    if (piece->second.state != State::closed) kept_ -= piece->second.bytes;
    if (piece->second.state == State::warm) warm_ -= piece->second.bytes;
    pieces_.erase(piece);
  }

  // As one piece with its neighbours that have no memory either.
  void add_closed(char* data, int64_t bytes) {
    const auto next = pieces_.find(data + bytes);
    if (next != pieces_.end() && next->second.state == State::closed) {
      bytes += next->second.bytes;
      forget(next);
    }
    const auto after = pieces_.lower_bound(data);
    if (after != pieces_.begin()) {
      const auto before = std::prev(after);
      if (before->second.state == State::closed && before->first + before->second.bytes == data) {
        before->second.bytes += bytes;
        return;
      }
    }
    remember(data, {bytes, 0, State::closed});
  }

  std::mutex mutex_;
  Pieces pieces_;
  int64_t kept_ = 0, warm_ = 0;
  uint64_t given_ = 0;
  int64_t limit_ = default_limit();
};

// Never destroyed: tensors may die after static destructors have run.
Cache& cache() {
  static Cache* instance = new Cache;
  return *instance;
}

}  // namespace

Block::Block(int64_t bytes) : bytes_(bytes) {
  if (bytes < 0 || bytes > std::numeric_limits<int64_t>::max() - 2 * huge_page) throw std::bad_alloc();
  capacity_ = whole_pages(std::max(bytes, int64_t(1)));
  data_ = cache().take(capacity_);
}
Block::~Block() { cache().give(data_, capacity_); }

void set_cache_limit(int64_t bytes) { cache().set_limit(bytes); }
int64_t cache_limit() { return cache().limit(); }
int64_t cached_bytes() { return cache().kept(); }
void release_cache() { cache().shrink_to(0); }

}  // namespace fastseg::cpu

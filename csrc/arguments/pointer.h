// Addresses, as Python passes them.
#pragma once
#include <cstdint>

namespace fastseg::arguments {

template <class T = void>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace fastseg::arguments

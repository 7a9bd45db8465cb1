// A growing array whose memory is not initialised and can be handed over (to numpy, with std::free).
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace edad_fast::wordpiece {

template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t index) { return data_[index]; }

  // Room for `count` more elements behind size(); their address.
  T* reserve_more(std::size_t count) {
    if (size_ + count > capacity_) {
      grow(size_ + count);
    }
    return data_ + size_;
  }

  // Takes over elements written behind size(), up to `end`.
  void set_end(const T* end) { size_ = static_cast<std::size_t>(end - data_); }

  void push_back(T value) {
    *reserve_more(1) = value;
    ++size_;
  }

  void append(const T* values, std::size_t count) {
    if (count != 0) {
      std::memcpy(reserve_more(count), values, count * sizeof(T));
      size_ += count;
    }
  }

  // The memory, cut to size, for the caller to free; the buffer is empty afterwards. Never null.
  T* release() {
    void* exact = std::realloc(data_, (size_ == 0 ? 1 : size_) * sizeof(T));
    T* result = exact == nullptr ? data_ : static_cast<T*>(exact);
    if (result == nullptr) {
      throw std::bad_alloc();
    }
    data_ = nullptr;
    size_ = capacity_ = 0;
    return result;
  }

 private:
  void grow(std::size_t least) {
    const std::size_t capacity = least > 2 * capacity_ ? least : 2 * capacity_;
    void* data = std::realloc(data_, capacity * sizeof(T));
    if (data == nullptr) {
      throw std::bad_alloc();
    }
    data_ = static_cast<T*>(data);
    capacity_ = capacity;
  }

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace edad_fast::wordpiece

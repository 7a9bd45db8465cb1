// The attention-score loss of one head, compiled once for each instruction set. The difference of the scores
// is never rounded below fp32.

#include <algorithm>
#include <cmath>

#include "products.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

// Floats of the score differences that are held at a time, and rows of a block of the linear form.
constexpr std::size_t SCORES = 1 << 16;
constexpr std::size_t LINEAR_ROWS = 128;

struct Scratch {
  Buffer<float> q, k, scores, gradient_q, gradient_k;
  Buffer<std::uint32_t> t, left_s, left_t, right_s, right_t, joined, interleaved, high, low;
  Buffer<float> gram_q, gram_k, block;
  Buffer<double> wide, wide_gram_q, wide_gram_k, wide_matrix, wide_gradient;
};

// All scores, SCORES at a time.
double direct(const Head& head, const Options& o, Scratch& scratch) {
  const bool pairs = HAS_PAIRS && o.dtype == Dtype::bf16;
  const std::size_t length = o.length, rows = padded(length, TILE_COLUMNS);
  const std::size_t s = padded(o.student_width, TILE_COLUMNS), t = padded(o.teacher_width, TILE_COLUMNS);
  float* q = scratch.q.get(rows * s);
  float* k = scratch.k.get(rows * s);
  unpack(head.student_q, o.dtype, 0, length, o.student_width, nullptr, q, s, s);
  unpack(head.student_k, o.dtype, 0, length, o.student_width, nullptr, k, s, s);
  // Left and right sides of both products, in fp32 or in pairs of bf16; 32 bits an element in either case.
  const std::size_t s_terms = pairs ? s / 2 : s, t_terms = pairs ? t / 2 : t;
  auto side = [&](Rows source, std::size_t width, std::size_t terms, std::uint32_t* target) {
    if (pairs) {
      copy(source, 0, length, width, nullptr, reinterpret_cast<std::uint16_t*>(target), 2 * terms, 2 * terms);
    } else {
      unpack(source, o.dtype, 0, length, width, nullptr, reinterpret_cast<float*>(target), terms, terms);
    }
  };
  auto* left_s = scratch.left_s.get(rows * s_terms);
  auto* left_t = scratch.left_t.get(rows * t_terms);
  auto* right_s = scratch.right_s.get(rows * s_terms);
  auto* right_t = scratch.right_t.get(rows * t_terms);
  side(head.student_q, o.student_width, s_terms, left_s);
  side(head.teacher_q, o.teacher_width, t_terms, left_t);
  const std::size_t filled = padded(length, TILE_ROWS);
  auto* plain = scratch.t.get(rows * std::max(s_terms, t_terms));
  for (const bool student : {true, false}) {
    const std::size_t terms = student ? s_terms : t_terms;
    auto* right = student ? right_s : right_t;
    std::fill(plain + filled * terms, plain + rows * terms, 0U);
    side(student ? head.student_k : head.teacher_k, student ? o.student_width : o.teacher_width, terms,
         plain);
    transpose(plain, terms, rows, terms, right, rows);
  }
  auto scores_of = [&](std::size_t first, std::size_t count, float* scores) {
    for (const bool student : {false, true}) {
      const std::size_t terms = student ? s_terms : t_terms;
      const auto* left = (student ? left_s : left_t) + first * terms;
      const auto* right = student ? right_s : right_t;
      const float scale = student ? o.student_scale : -o.teacher_scale;
      if (pairs) {
        using Element = Pair::Element;
        multiply<Pair>({reinterpret_cast<const Element*>(left), terms, 1},
                       reinterpret_cast<const Element*>(right), rows, terms, scores, rows, count, rows, scale,
                       student);
      } else {
        multiply<Single>({reinterpret_cast<const float*>(left), terms, 1},
                         reinterpret_cast<const float*>(right), rows, terms, scores, rows, count, rows, scale,
                         student);
      }
    }
  };
  const std::size_t chunk = std::max(TILE_ROWS, SCORES / rows / TILE_ROWS * TILE_ROWS);
  float* scores = scratch.scores.get(chunk * rows);
  float* gradient_q = scratch.gradient_q.get(chunk * s);
  float* gradient_k = scratch.gradient_k.get(rows * s);
  double total = 0;
  for (std::size_t first = 0; first < length; first += chunk) {
    const std::size_t count = std::min(chunk, filled - first);
    scores_of(first, count, scores);
    for (std::size_t i = 0; i < count; ++i) {
      if (first + i < length) {
        const std::int32_t id = head.segments ? std::max(head.segments[first + i], 0) : 1;
        total += keep_counted(scores + i * rows, length, head.segments, id, o.tinybert);
      }
    }
    if (head.grad_q) {
      multiply<Single>({scores, rows, 1}, k, s, length, gradient_q, s, count, s, o.student_scale, false);
      store(gradient_q, s, first, std::min(count, length - first), o.student_width, o.dtype, head.grad_q,
            head.grad_q_stride);
    }
    if (head.grad_k) {
      const std::size_t valid = std::min(count, length - first);
      multiply<Single>({scores, 1, rows}, q + first * s, s, valid, gradient_k, s, filled, s, o.student_scale,
                       first > 0);
    }
  }
  if (head.grad_k) {
    store(gradient_k, s, 0, length, o.student_width, o.dtype, head.grad_k, head.grad_k_stride);
  }
  return total;
}

// The student's columns first, then the teacher's, each padded; what the linear form calls Z and Y.
struct Joined {
  Rows student, teacher;
  const std::int32_t* mask;
};

// Adds Z^T Z; blocks above the diagonal are left out, but for the student's columns.
template <class Terms>
void add_gram(const typename Terms::Element* z, std::size_t width, std::size_t terms,
              typename Terms::Sum* gram) {
  for (std::size_t column = 0; column < width; column += TILE_COLUMNS) {
    multiply<Terms>({z + column, 1, width}, z + column, width, terms, gram + column * width + column, width,
                    width - column, TILE_COLUMNS, typename Terms::Sum{1}, true);
  }
}

// Sum over all elements of Z^T Z times Y^T Y times the scales, from the blocks on and below the diagonal.
template <class T>
double inner(const T* q, const T* k, std::size_t width, std::size_t s, double own, double cross,
             double other) {
  double total = 0;
  for (std::size_t column = 0; column < width; column += TILE_COLUMNS) {
    for (std::size_t block = column; block < width; block += TILE_COLUMNS) {
      double lanes[TILE_COLUMNS] = {};
      for (std::size_t row = block; row < block + TILE_COLUMNS; ++row) {
        for (std::size_t i = 0; i < TILE_COLUMNS; ++i) {
          const std::size_t at = row * width + column + i;
          lanes[i] += static_cast<double>(q[at]) * static_cast<double>(k[at]);
        }
      }
      const double scale = block < s && column < s ? own : (block < s || column < s ? cross : other);
      for (const double lane : lanes) total += (block > column ? 2 : 1) * scale * lane;
    }
  }
  return total;
}

// The student's columns of a gram matrix, all rows, scaled by `own` and `cross`; above the diagonal they are
// those below, mirrored.
template <class T>
void take_columns(const T* gram, std::size_t width, std::size_t s, double own, double cross, T* matrix) {
  for (std::size_t row = 0; row < width; ++row) {
    const T scale = static_cast<T>(row < s ? own : cross);
    const std::size_t below = std::min(s, row / TILE_COLUMNS * TILE_COLUMNS + TILE_COLUMNS);
    for (std::size_t i = 0; i < below; ++i) matrix[row * s + i] = scale * gram[row * width + i];
    for (std::size_t i = below; i < s; ++i) matrix[row * s + i] = scale * gram[i * width + row];
  }
}

// No score at all; one segment at most. The result is a small difference of large sums: fp32 inputs go in
// fp64.
double linear(const Head& head, const Options& o, Scratch& scratch) {
  const bool pairs = HAS_PAIRS && o.dtype == Dtype::bf16, wide = o.dtype == Dtype::fp32;
  const std::size_t s = padded(o.student_width, TILE_COLUMNS), t = padded(o.teacher_width, TILE_COLUMNS);
  const std::size_t width = s + t;
  const Joined sides[2] = {{head.student_q, head.teacher_q, o.tinybert ? nullptr : head.segments},
                           {head.student_k, head.teacher_k, head.segments}};
  float* grams[2] = {scratch.gram_q.get(width * width), scratch.gram_k.get(width * width)};
  double* wide_grams[2] = {nullptr, nullptr};
  if (wide) {
    wide_grams[0] = scratch.wide_gram_q.get(width * width);
    wide_grams[1] = scratch.wide_gram_k.get(width * width);
  }
  float* block = scratch.block.get(LINEAR_ROWS * width);
  auto* joined = scratch.joined.get(LINEAR_ROWS * width / 2);
  auto* interleaved = scratch.interleaved.get(LINEAR_ROWS * width / 2);
  double* wide_block = wide ? scratch.wide.get(LINEAR_ROWS * width) : nullptr;
  auto load = [&](const Joined& side, std::size_t first, std::size_t count) {
    if (pairs) {
      auto* target = reinterpret_cast<std::uint16_t*>(joined);
      copy(side.student, first, count, o.student_width, side.mask, target, width, s);
      copy(side.teacher, first, count, o.teacher_width, side.mask, target + s, width, t);
    } else {
      unpack(side.student, o.dtype, first, count, o.student_width, side.mask, block, width, s);
      unpack(side.teacher, o.dtype, first, count, o.teacher_width, side.mask, block + s, width, t);
    }
  };
  auto load_wide = [&](const Joined& side, std::size_t first, std::size_t count) {
    unpack(side.student, o.dtype, first, count, o.student_width, side.mask, wide_block, width, s);
    unpack(side.teacher, o.dtype, first, count, o.teacher_width, side.mask, wide_block + s, width, t);
  };
  for (int side = 0; side < 2; ++side) {
    std::fill(grams[side], grams[side] + width * width, 0.0F);
    if (wide) std::fill(wide_grams[side], wide_grams[side] + width * width, 0.0);
    for (std::size_t first = 0; first < o.length; first += LINEAR_ROWS) {
      const std::size_t count = std::min(LINEAR_ROWS, o.length - first), filled = padded(count, TILE_ROWS);
      if (wide) {
        load_wide(sides[side], first, count);
        add_gram<Double>(wide_block, width, filled, wide_grams[side]);
        continue;
      }
      load(sides[side], first, count);
      if (pairs) {
        const auto* source = reinterpret_cast<const std::uint16_t*>(joined);
        for (std::size_t row = 0; row < filled; row += 2) {
          for (std::size_t i = 0; i < width; ++i) {
            interleaved[row / 2 * width + i] =
                source[row * width + i] | static_cast<std::uint32_t>(source[(row + 1) * width + i]) << 16;
          }
        }
        add_gram<Pair>(reinterpret_cast<const Pair::Element*>(interleaved), width, filled / 2, grams[side]);
      } else {
        add_gram<Single>(block, width, filled, grams[side]);
      }
    }
  }
  const double a = o.student_scale, b = o.teacher_scale;
  const double total = wide ? inner(wide_grams[0], wide_grams[1], width, s, a * a, -a * b, b * b)
                            : inner(grams[0], grams[1], width, s, a * a, -a * b, b * b);
  void* const targets[2] = {head.grad_q, head.grad_k};
  const std::ptrdiff_t strides[2] = {head.grad_q_stride, head.grad_k_stride};
  float* gradient = scratch.gradient_q.get(LINEAR_ROWS * s);
  auto* high = scratch.high.get(width / 2 * s);
  auto* low = scratch.low.get(width / 2 * s);
  for (int side = 0; side < 2; ++side) {
    if (!targets[side]) continue;
    float* matrix = scratch.scores.get(width * s);
    double* wide_matrix = wide ? scratch.wide_matrix.get(width * s) : nullptr;
    if (wide) {
      take_columns(wide_grams[1 - side], width, s, a * a, -a * b, wide_matrix);
    } else {
      take_columns(grams[1 - side], width, s, a * a, -a * b, matrix);
    }
    if (pairs) {  // in two parts: one would round the gradient where it is small
      for (std::size_t row = 0; row < width; row += 2) {
        for (std::size_t column = 0; column < s; ++column) {
          const float x = matrix[row * s + column], y = matrix[(row + 1) * s + column];
          const std::uint16_t x_high = rounded(x), y_high = rounded(y);
          const std::uint16_t x_low = rounded(x - widened(x_high)), y_low = rounded(y - widened(y_high));
          high[row / 2 * s + column] = x_high | static_cast<std::uint32_t>(y_high) << 16;
          low[row / 2 * s + column] = x_low | static_cast<std::uint32_t>(y_low) << 16;
        }
      }
    }
    for (std::size_t first = 0; first < o.length; first += LINEAR_ROWS) {
      const std::size_t count = std::min(LINEAR_ROWS, o.length - first), filled = padded(count, TILE_ROWS);
      if (wide) {
        load_wide(sides[side], first, count);
        double* wide_gradient = scratch.wide_gradient.get(LINEAR_ROWS * s);
        multiply<Double>({wide_block, width, 1}, wide_matrix, s, width, wide_gradient, s, filled, s, 1.0,
                         false);
        store(wide_gradient, s, first, count, o.student_width, o.dtype, targets[side], strides[side]);
        continue;
      }
      load(sides[side], first, count);
      if (pairs) {
        using Element = Pair::Element;
        const Left<Pair> left{reinterpret_cast<const Element*>(joined), width / 2, 1};
        multiply<Pair>(left, reinterpret_cast<const Element*>(low), s, width / 2, gradient, s, filled, s,
                       1.0F, false);
        multiply<Pair>(left, reinterpret_cast<const Element*>(high), s, width / 2, gradient, s, filled, s,
                       1.0F, true);
      } else {
        multiply<Single>({block, width, 1}, matrix, s, width, gradient, s, filled, s, 1.0F, false);
      }
      store(gradient, s, first, count, o.student_width, o.dtype, targets[side], strides[side]);
    }
  }
  return total;
}

}  // namespace

double attention_head(const Head& head, const Options& options) {
  if (options.length == 0) return 0;
  thread_local Scratch scratch;
  return options.linear ? linear(head, options, scratch) : direct(head, options, scratch);
}

}  // namespace edad_fast::EDAD_FAST_ARCH

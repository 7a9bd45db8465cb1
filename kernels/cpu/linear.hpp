// No score at all: with Z = [a Q_S | -b Q_T] and Y = [K_S | K_T] the sum is <Z^T Z, Y^T Y>, the half
// gradients Z (Y^T Y) and Y (Z^T Z). The result is a small difference of large sums: fp32 inputs go in fp64.
#pragma once

#include "rows.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

constexpr std::size_t LINEAR_ROWS = 128;  // rows of a block

template <class Sum>
struct LinearScratch {
  Buffer<Sum> grams[2], rows, matrix, gradient;
  Buffer<std::uint32_t> pairs, high, low;
};

// The student's columns first, then the teacher's, each in panels of its own.
struct Columns {
  std::size_t s, t;

  std::size_t student_panels() const { return padded(s, PANEL) / PANEL; }
  std::size_t panels() const { return student_panels() + padded(t, PANEL) / PANEL; }
  bool student(std::size_t panel) const { return panel < student_panels(); }
  std::size_t width(std::size_t panel) const {
    return student(panel) ? std::min(PANEL, s - panel * PANEL)
                          : std::min(PANEL, t - (panel - student_panels()) * PANEL);
  }
};

// Adds Z^T Z, groups on and below the diagonal.
template <class Terms>
void add_gram(Panels<const typename Terms::Element> z, std::size_t terms, const Columns& columns,
              Panels<typename Terms::Sum> gram, Ahead& ahead) {
  constexpr std::size_t narrow = 2 * LANES<Terms> > GROUP ? 1 : 2;
  for (std::size_t right = 0; right < columns.panels(); ++right) {
    const std::size_t width = columns.width(right);
    multiply_into<Terms, true, narrow>({{z.from(right), z.from(right), terms}},
                                       {gram.at(right, right * PANEL), gram.rows}, width, width, true, ahead,
                                       true);
    for (std::size_t left = right + 1; left < columns.panels(); ++left) {
      multiply_into<Terms, true>({{z.from(left), z.from(right), terms}},
                                 {gram.at(right, left * PANEL), gram.rows}, columns.width(left), width, true,
                                 ahead);
    }
  }
}

// Sum over all elements of Z^T Z times Y^T Y times the scales.
template <class T>
double inner(Panels<T> q, Panels<T> k, const Columns& columns, double a, double b) {
  double total = 0;
  for (std::size_t right = 0; right < columns.panels(); ++right) {
    for (std::size_t left = right; left < columns.panels(); ++left) {
      double sum = 0;
      for (std::size_t top = 0; top < columns.width(left); top += GROUP) {
        for (std::size_t side = 0; side < columns.width(right); side += GROUP) {
          if (left == right && side > top) continue;
          double lanes[GROUP] = {};
          for (std::size_t row = top; row < std::min(top + GROUP, columns.width(left)); ++row) {
            const T* one = q.at(right, left * PANEL + row) + side;
            const T* other = k.at(right, left * PANEL + row) + side;
            for (std::size_t i = 0; i < GROUP; ++i) {
              lanes[i] += static_cast<double>(one[i]) * static_cast<double>(other[i]);
            }
          }
          double part = 0;
          for (std::size_t i = 0; i < std::min(GROUP, columns.width(right) - side); ++i) part += lanes[i];
          sum += left == right && side == top ? part : 2 * part;
        }
      }
      total += (columns.student(left) ? a : -b) * (columns.student(right) ? a : -b) * sum;
    }
  }
  return total;
}

// The student's columns of a gram matrix, scaled; above the diagonal they are those below, mirrored.
template <class T>
void take_columns(Panels<T> gram, const Columns& columns, double a, double b, Panels<T> matrix) {
  for (std::size_t right = 0; right < columns.student_panels(); ++right) {
    for (std::size_t left = 0; left < columns.panels(); ++left) {
      const T scale = static_cast<T>(columns.student(left) ? a * a : -a * b);
      for (std::size_t row = 0; row < PANEL; ++row) {
        T* target = matrix.at(right, left * PANEL + row);
        const T* from = gram.at(right, left * PANEL + row);
        for (std::size_t i = 0; i < PANEL; ++i) target[i] = scale * from[i];
        const std::size_t known = left < right ? 0 : (left == right && row < GROUP ? GROUP : PANEL);
        for (std::size_t i = known; i < PANEL; ++i) {
          target[i] = scale * gram.at(left, right * PANEL + i)[row];
        }
      }
    }
  }
}

// Rows (2 i, 2 i + 1) of a matrix as pairs of bf16, in two parts: one would round the gradient where it is
// small.
[[maybe_unused]] void split(Panels<float> matrix, std::size_t columns, Panels<std::uint32_t> high,
                            Panels<std::uint32_t> low) {
  for (std::size_t row = 0; row < matrix.rows; row += 2) {
    for (std::size_t column = 0; column < columns; column += GROUP) {
      const auto x = loaded<float, Floats16>(place(matrix, row, column));
      const auto y = loaded<float, Floats16>(place(matrix, row + 1, column));
      const Words16 x_high = rounded(x), y_high = rounded(y);
      const Words16 x_low = rounded(x - reinterpret_cast<Floats16>(x_high << 16));
      const Words16 y_low = rounded(y - reinterpret_cast<Floats16>(y_high << 16));
      const Words16 both_high = x_high | y_high << 16, both_low = x_low | y_low << 16;
      std::memcpy(place(high, row / 2, column), &both_high, sizeof both_high);
      std::memcpy(place(low, row / 2, column), &both_low, sizeof both_low);
    }
  }
}

// Terms: what the rows are multiplied as.
template <class Terms>
double linear(const Head& head, const Head* next, const Options& o, const Kept& queries, const Kept& keys,
              LinearScratch<typename Terms::Sum>& scratch) {
  using Sum = typename Terms::Sum;
  using Element = typename Terms::Element;
  constexpr bool pairs = !std::is_same_v<Element, Sum>;
  const Columns columns{o.student_width, o.teacher_width};
  const std::size_t width = columns.panels() * PANEL, s_width = columns.student_panels() * PANEL;
  const Rows students[2] = {head.student_q, head.student_k}, teachers[2] = {head.teacher_q, head.teacher_k};
  const Kept* const kept[2] = {&queries, &keys};
  Ahead ahead;
  // Block after block; the rows of the other side of `after` come behind the last.
  auto for_blocks = [&](int side, const Head* after, const auto& call) {
    const std::size_t rows = kept[side]->count;
    for (std::size_t first = 0, count; first < rows; first += count) {
      count = std::min(LINEAR_ROWS, rows - first);
      if (first + count < rows) {
        ahead.start({students[side], teachers[side]}, {columns.s, columns.t}, o.dtype,
                    kept[side]->row(first + count), std::min(LINEAR_ROWS, rows - first - count));
      } else if (after) {
        ahead.start({side ? after->student_q : after->student_k, side ? after->teacher_q : after->teacher_k},
                    {columns.s, columns.t}, o.dtype, 0, std::min(LINEAR_ROWS, after->length));
      }
      call(first, count);
    }
  };
  auto load_rows = [&](int side, std::size_t first, std::size_t count) {
    const auto rows = take(scratch.rows, count, width);
    load(students[side], o.dtype, *kept[side], first, count, columns.s, rows);
    load(teachers[side], o.dtype, *kept[side], first, count, columns.t, rows.from(columns.student_panels()));
    return Panels<const Sum>{rows.data, rows.rows};
  };
  Panels<Sum> grams[2];
  for (int side = 0; side < 2; ++side) {
    grams[side] = take(scratch.grams[side], width, width);
    std::fill(grams[side].data, grams[side].data + width * width, Sum{0});
    for_blocks(side, &head, [&](std::size_t first, std::size_t count) {
      if constexpr (pairs) {
        const auto z = take(scratch.pairs, (count + 1) / 2, width);
        load_row_pairs(students[side], *kept[side], first, count, columns.s, z);
        load_row_pairs(teachers[side], *kept[side], first, count, columns.t,
                       z.from(columns.student_panels()));
        add_gram<Terms>({z.data, z.rows}, z.rows, columns, grams[side], ahead);
      } else {
        add_gram<Terms>(load_rows(side, first, count), count, columns, grams[side], ahead);
      }
    });
  }
  const double a = o.student_scale, b = o.teacher_scale;
  const auto factor = static_cast<Sum>(o.gradient_factor);
  void* const targets[2] = {head.grad_q, head.grad_k};
  const std::ptrdiff_t strides[2] = {head.grad_q_stride, head.grad_k_stride};
  for (int side = 0; side < 2; ++side) {
    if (!targets[side]) continue;
    const auto matrix = take(scratch.matrix, width, s_width);
    take_columns(grams[1 - side], columns, a, b, matrix);
    const auto gradient = take(scratch.gradient, LINEAR_ROWS, s_width);
    auto finish = [&](std::size_t first, std::size_t count) {
      store(gradient, *kept[side], first, count, columns.s, factor, o.dtype, targets[side], strides[side]);
    };
    if constexpr (pairs) {
      const auto high = take(scratch.high, width / 2, s_width), low = take(scratch.low, width / 2, s_width);
      split(matrix, s_width, high, low);
      const std::size_t s_terms = (columns.s + 1) / 2, t_terms = (columns.t + 1) / 2;
      for_blocks(side, side ? next : &head, [&](std::size_t first, std::size_t count) {
        const std::size_t s_panels = padded(s_terms, PANEL) / PANEL;
        const auto rows = take(scratch.pairs, count, s_panels * PANEL + t_terms);
        const auto t_rows = rows.from(s_panels);
        load_pairs(students[side], *kept[side], first, count, columns.s, rows);
        load_pairs(teachers[side], *kept[side], first, count, columns.t, t_rows);
        auto part = [&](Panels<std::uint32_t> left, Panels<std::uint32_t> right, std::size_t row,
                        std::size_t terms) {
          return Part<Terms>{{left.data, left.rows}, {right.at(0, row), right.rows}, terms};
        };
        multiply_into<Terms, false>({part(rows, low, 0, s_terms), part(t_rows, low, s_width / 2, t_terms),
                                     part(rows, high, 0, s_terms), part(t_rows, high, s_width / 2, t_terms)},
                                    gradient, count, columns.s, false, ahead);
        finish(first, count);
      });
    } else {
      for_blocks(side, side ? next : &head, [&](std::size_t first, std::size_t count) {
        const auto rows = load_rows(side, first, count);
        multiply_into<Terms, false>(
            {{rows, {matrix.data, matrix.rows}, columns.s},
             {rows.from(columns.student_panels()), {matrix.at(0, s_width), matrix.rows}, columns.t}},
            gradient, count, columns.s, false, ahead);
        finish(first, count);
      });
    }
  }
  return inner(grams[0], grams[1], columns, a, b);
}

}  // namespace
}  // namespace edad_fast::EDAD_FAST_ARCH

// All scores of a head, a block at a time. Their difference is never rounded below fp32.
#pragma once

#include <cmath>

#include "rows.hpp"

namespace edad_fast::EDAD_FAST_ARCH {
namespace {

// Queries of a block, and floats of the differences that are held at a time.
constexpr std::size_t QUERIES = 512;
constexpr std::size_t SCORES = 1 << 15;

// What `Kept::ids` says of a query besides its segment.
constexpr std::int32_t ANY = -1;   // sees the keys of every segment
constexpr std::int32_t NONE = -2;  // is none: behind the last

struct DirectScratch {
  Buffer<float> q, k, scores, gradient_q, gradient_k, transposed;
  Buffer<std::uint32_t> plain, left_s, left_t, right_s, right_t;
};

typedef std::int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));
typedef double WideDoubles __attribute__((vector_size(2 * VECTOR_BYTES)));

// Both products of one block of scores; what it returns is in units of `unit`.
struct Difference {
  bool student_first;  // the product that is scaled by `ratio`; the other one is added to it
  float ratio, unit;

  explicit Difference(const Options& o)
      : student_first(std::abs(o.student_scale) <= std::abs(o.teacher_scale)) {
    const float small = student_first ? o.student_scale : o.teacher_scale;
    const float large = student_first ? o.teacher_scale : o.student_scale;
    ratio = large == 0 ? 0 : -small / large;
    unit = student_first ? -large : large;
  }
};

// Differences of the scores, keys by queries; sets pairs that do not count to 0 (a select: NaN times 0 would
// be NaN). The sum of their squares.
template <class Terms>
double scores(const Part<Terms>& one, const Part<Terms>& other, Panels<float> result, std::size_t keys,
              std::size_t queries, const std::int32_t* key_ids, const std::int32_t* query_ids, bool uniform,
              Ahead& ahead) {
  WideDoubles total = {};
  multiply<Terms, false, 2>(
      {one, other}, keys, queries, false,
      [&](auto& sums, std::size_t panel, std::size_t row, std::size_t inside) {
        constexpr std::size_t ROWS = std::extent_v<std::remove_reference_t<decltype(sums)>>;
        const std::size_t column = panel * PANEL + inside;
        if (!uniform || column + 2 * LANES<Single> > queries) {
#pragma GCC unroll 2
          for (std::size_t v = 0; v < 2; ++v) {
            const auto ids = loaded<std::int32_t, Ints>(query_ids + column + v * LANES<Single>);
#pragma GCC unroll 13
            for (std::size_t r = 0; r < ROWS; ++r) {
              const Ints counts = (ids == key_ids[row + r]) | (ids == ANY);
              sums[r][v] = reinterpret_cast<Floats>(reinterpret_cast<Ints>(sums[r][v]) & counts);
            }
          }
        }
        float* target = result.at(panel, row) + inside;
        Floats squares[2] = {};
#pragma GCC unroll 13
        for (std::size_t r = 0; r < ROWS; ++r, target += PANEL) {
          squares[0] += sums[r][0] * sums[r][0];
          squares[1] += sums[r][1] * sums[r][1];
          std::memcpy(target, &sums[r][0], sizeof(Floats));
          std::memcpy(target + LANES<Single>, &sums[r][1], sizeof(Floats));
        }
        total += __builtin_convertvector(squares[0], WideDoubles);
        total += __builtin_convertvector(squares[1], WideDoubles);
        ahead.step();
      });
  double sum = 0;
  for (std::size_t lane = 0; lane < LANES<Single>; ++lane) sum += total[lane];
  return sum;
}

// A matrix on the left or right of a product, whatever its elements.
template <class Terms>
Panels<const typename Terms::Element> as(Panels<std::uint32_t> x, std::size_t row = 0) {
  return {reinterpret_cast<const typename Terms::Element*>(x.at(0, row)), x.rows};
}

// Kept::ids of queries are padded to whole panels with NONE. `uniform`: every pair counts.
double direct(const Head& head, const Head* next, const Options& o, const Kept& queries, const Kept& keys,
              bool uniform, DirectScratch& scratch) {
  const bool pairs = HAS_PAIRS && o.dtype == Dtype::bf16;
  const std::size_t s = o.student_width, t = o.teacher_width;
  const std::size_t s_terms = pairs ? (s + 1) / 2 : s, t_terms = pairs ? (t + 1) / 2 : t;
  auto load_side = [&](Rows rows, const Kept& kept, std::size_t first, std::size_t count, std::size_t width,
                       Panels<std::uint32_t> target) {
    if (pairs) {
      load_pairs(rows, kept, first, count, width, target);
    } else {
      load(rows, o.dtype, kept, first, count, width,
           Panels<float>{reinterpret_cast<float*>(target.data), target.rows});
    }
  };
  const auto left_s = take(scratch.left_s, keys.count, s_terms);
  const auto left_t = take(scratch.left_t, keys.count, t_terms);
  load_side(head.student_k, keys, 0, keys.count, s, left_s);
  load_side(head.teacher_k, keys, 0, keys.count, t, left_t);
  // In fp32 the same rows serve the scores and the gradients.
  const auto k = pairs ? take(scratch.k, keys.count, s)
                       : Panels<float>{reinterpret_cast<float*>(left_s.data), left_s.rows};
  if (pairs && head.grad_q) load(head.student_k, o.dtype, keys, 0, keys.count, s, k);
  const auto gradient_k = take(scratch.gradient_k, keys.count, s);

  Ahead ahead;
  if (next) {
    ahead.start({next->student_k, next->teacher_k, next->student_q, next->teacher_q}, {s, t, s, t}, o.dtype,
                0, next->length);
  }
  const Difference difference(o);
  const float gradient_scale = static_cast<float>(o.student_scale * difference.unit * o.gradient_factor);
  double total = 0;
  for (std::size_t top = 0; top < queries.count; top += QUERIES) {
    const std::size_t count = std::min(QUERIES, queries.count - top), filled = padded(count, PANEL);
    const auto right_s = take(scratch.right_s, padded(s_terms, GROUP), filled);
    const auto right_t = take(scratch.right_t, padded(t_terms, GROUP), filled);
    const auto q = take(scratch.q, filled, s);
    for (const bool student : {true, false}) {
      const std::size_t terms = student ? s_terms : t_terms;
      const auto plain = student && !pairs
                             ? Panels<std::uint32_t>{reinterpret_cast<std::uint32_t*>(q.data), q.rows}
                             : take(scratch.plain, filled, terms);
      load_side(student ? head.student_q : head.teacher_q, queries, top, count, student ? s : t, plain);
      for (std::size_t column = 0; column < terms; column += PANEL) {
        std::fill(plain.at(column / PANEL, count), plain.at(column / PANEL, filled), 0U);
      }
      transpose(plain, filled, terms, student ? right_s : right_t);
    }
    if (pairs && head.grad_k) load(head.student_q, o.dtype, queries, top, count, s, q);

    const auto gradient_q = take(scratch.gradient_q, padded(s, GROUP), filled);
    const std::size_t chunk = std::max(MAX_ROWS, SCORES / filled / MAX_ROWS * MAX_ROWS);
    const auto block = take(scratch.scores, chunk, filled);
    for (std::size_t first = 0; first < keys.count; first += chunk) {
      const std::size_t size = std::min(chunk, keys.count - first);
      auto compute = [&]<class Terms>(Terms) {
        const Part<Terms> student{as<Terms>(left_s, first), as<Terms>(right_s), s_terms, difference.ratio};
        const Part<Terms> teacher{as<Terms>(left_t, first), as<Terms>(right_t), t_terms, difference.ratio};
        return scores<Terms>(difference.student_first ? student : teacher,
                             difference.student_first ? teacher : student, block, size, count,
                             keys.ids + first, queries.ids + top, uniform, ahead);
      };
      total += pairs ? compute(Pair{}) : compute(Single{});
      if (head.grad_q) {
        multiply_into<Single, true>({{{k.at(0, first), k.rows}, {block.data, block.rows}, size}}, gradient_q,
                                    s, count, first > 0, ahead);
      }
      if (head.grad_k) {
        multiply_into<Single, false>({{{block.data, block.rows}, {q.data, q.rows}, count}},
                                     {gradient_k.at(0, first), gradient_k.rows}, size, s, top > 0, ahead);
      }
    }
    if (head.grad_q) {
      const auto rows = take(scratch.transposed, filled, s);
      transpose(gradient_q, s, filled, rows);
      store(rows, queries, top, count, s, gradient_scale, o.dtype, head.grad_q, head.grad_q_stride);
    }
  }
  if (head.grad_k) {
    store(gradient_k, keys, 0, keys.count, s, gradient_scale, o.dtype, head.grad_k, head.grad_k_stride);
  }
  return total * difference.unit * difference.unit;
}

}  // namespace
}  // namespace edad_fast::EDAD_FAST_ARCH

// Blocked FP8 GEMM. Each thread owns a rectangle of the output and, for each of its blocks,
//
//   for a block of Y rows (at most 512) and a stretch of K:  decode and transpose it into L2
//     for each panel of 14 rows of X, for each 512 of K:     decode it into L1
//       for each panel of 32 rows of Y:                      14 x 32 tile += X panel * Y panel
//
// so X is decoded once for 512 columns and Y once for all rows of the block, and neither is stored
// beyond L2. Sums live in FP32 tiles until the last stretch of K and are then finished while in L1:
// the output is written once, with one rounding. Every sum adds its products in the order of K, so
// neither the blocking nor the number of threads changes a bit of the result.
//
// Limit: multiply-adds. docs/ops/scaled_mm.md has the arithmetic.
#include <algorithm>
#include <memory>

#include "ops/scaled_mm/problem.h"
#include "ops/scaled_mm/tile.h"
#include "simd/bits.h"
#include "simd/parallel.h"

namespace mpkernels::scaled_mm {
namespace {

constexpr int64_t kBlockCols = 512;           // of Y
constexpr int64_t kBlockBytes = 512 * 1024;   // packed Y: half of a 1 MiB L2
constexpr int64_t kTileBytes = 2048 * 1024;   // sums that wait for the next stretch of K
constexpr int64_t kThreadMacs = 1024 * 1024;  // multiply-adds worth a thread: about 8 us

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The `index`-th of `parts` nearly equal parts of `panels` panels of `panel` rows, cut at `total`.
Range part(int64_t total, int64_t panel, int64_t parts, int64_t index) {
  const int64_t panels = ceil_div(total, panel);
  return {std::min(total, panels * index / parts * panel),
          std::min(total, panels * (index + 1) / parts * panel)};
}

// The size of the fewest equal blocks of at most `limit`, a multiple of `step` as limit is.
int64_t even_block(int64_t total, int64_t limit, int64_t step) {
  const int64_t blocks = std::max<int64_t>(1, ceil_div(total, limit));
  return std::max(step, round_up(ceil_div(total, blocks), step));
}

// What a thread keeps from call to call: at most 512 + 31 + 2048 + 112 KiB.
struct RegionScratch {
  Scratch y_panels, x_panel, tiles, strip;
};

RegionScratch& region_scratch() {
  thread_local RegionScratch scratch;
  return scratch;
}

template <typename Kernel>
class Region {
 public:
  Region(const Problem& problem, Range rows, Range cols)
      : problem_(problem), rows_(rows), cols_(cols) {
    block_cols_ =
        even_block(cols.size(), kBlockCols / Kernel::kCols * Kernel::kCols, Kernel::kCols);
    const int64_t stretch = kBlockBytes / (int64_t)sizeof(Element) / block_cols_;
    block_depth_ = even_block(
        problem.depth, std::max<int64_t>(stretch / Kernel::kDepth, 1) * Kernel::kDepth, kPackStep);
    one_stretch_ = block_depth_ >= problem.depth;
    const int64_t waiting = kTileBytes / (int64_t)sizeof(float) / block_cols_;
    block_rows_ = one_stretch_ ? rows.size()
                               : even_block(rows.size(), waiting / Kernel::kRows * Kernel::kRows,
                                            Kernel::kRows);
    panel_elements_ = block_depth_ * Kernel::kCols;
    col_panels_ = block_cols_ / Kernel::kCols;
  }

  void run() {
    RegionScratch& scratch = region_scratch();
    y_panels_ = scratch.y_panels.reserve<Element>(col_panels_ * panel_elements_);
    x_panel_ = scratch.x_panel.reserve<Element>(Kernel::kRows * Kernel::kStride);
    const int64_t row_panels = one_stretch_ ? 1 : ceil_div(block_rows_, Kernel::kRows);
    tiles_ = scratch.tiles.reserve<float>(row_panels * col_panels_ * kTile);
    if (problem_.swapped) strip_ = scratch.strip.reserve<float>(block_cols_ * kStrip);
    for (int64_t col = cols_.begin; col < cols_.end; col += block_cols_)
      for (int64_t row = rows_.begin; row < rows_.end; row += block_rows_)
        run_block({row, std::min(row + block_rows_, rows_.end)},
                  {col, std::min(col + block_cols_, cols_.end)});
  }

 private:
  using Element = typename Kernel::Element;
  static constexpr int64_t kTile = Kernel::kRows * Kernel::kCols;
  // Rows of X in a strip of a swapped problem. They are columns of the output, where 14 or 28 at a
  // time would be odd ends of vectors and of cache lines.
  static constexpr int64_t kStrip = round_up(112, Kernel::kRows);

  void run_block(Range rows, Range cols) {
    int64_t k = 0;
    do {
      const Range stretch{k, std::min(k + block_depth_, problem_.depth)};
      pack_cols(cols, stretch);
      strip_begin_ = rows.begin;
      for (int64_t row = rows.begin; row < rows.end; row += Kernel::kRows) {
        const int64_t waiting = one_stretch_ ? 0 : (row - rows.begin) / Kernel::kRows;
        const int64_t end = std::min(row + Kernel::kRows, rows.end);
        run_panel({row, end}, cols, stretch, tiles_ + waiting * col_panels_ * kTile);
        if (problem_.swapped && stretch.end == problem_.depth) flush_strip(end, rows.end, cols);
      }
      k += block_depth_;
    } while (k < problem_.depth);
  }

  void pack_cols(Range cols, Range stretch) {
    Element* panel = y_panels_;
    for (int64_t col = cols.begin; col < cols.end; col += Kernel::kCols, panel += panel_elements_)
      Kernel::pack_cols(problem_.y, col, std::min<int64_t>(Kernel::kCols, cols.end - col),
                        stretch.begin, stretch.size(), panel);
  }

  // One panel of X against the block's columns. K = 0 makes one pass over nothing, for the bias.
  void run_panel(Range rows, Range cols, Range stretch, float* tiles) {
    const int64_t step = even_block(stretch.size(), Kernel::kDepth, kPackStep);
    int64_t k = stretch.begin;
    do {
      const int64_t depth = std::min(step, stretch.end - k);
      const bool last = k + depth == problem_.depth;
      Kernel::pack_rows(problem_.x, rows.begin, rows.size(), k, depth, x_panel_);
      const bool in_row = k + step < stretch.end;
      const uint8_t* next = problem_.x.data + (in_row ? rows.begin : rows.end) * problem_.x.pitch +
                            (in_row ? k + step : stretch.begin);
      const Element* y = y_panels_ + (k - stretch.begin) * Kernel::kCols;
      float* tile = tiles;
      for (int64_t col = cols.begin; col < cols.end; col += Kernel::kCols) {
        Kernel::multiply(x_panel_, y, tile, depth, k > 0, next, problem_.x.pitch);
        next = nullptr;
        if (last && problem_.swapped) {
          turn(tile, strip_ + (col - cols.begin) * kStrip + (rows.begin - strip_begin_));
        } else if (last) {
          finish(problem_, tile, Kernel::kCols, rows.begin, rows.size(), col,
                 std::min<int64_t>(Kernel::kCols, cols.end - col));
        }
        y += panel_elements_;
        tile += kTile;
      }
      k += step;
    } while (k < stretch.end);
  }

  // The tile of a swapped problem, transposed into the strip.
  static void turn(const float* __restrict__ tile, float* __restrict__ strip) {
    for (int64_t j = 0; j < Kernel::kCols; ++j)
#pragma GCC unroll 32
      for (int64_t i = 0; i < Kernel::kRows; ++i)
        strip[j * kStrip + i] = tile[i * Kernel::kCols + j];
  }

  // Finishes the rows in the strip, if it is full or `row` is the end of the block.
  void flush_strip(int64_t row, int64_t block_end, Range cols) {
    if (row - strip_begin_ < kStrip && row < block_end) return;
    finish(problem_, strip_, kStrip, cols.begin, cols.size(), strip_begin_, row - strip_begin_);
    strip_begin_ = row;
  }

  const Problem& problem_;
  const Range rows_, cols_;
  int64_t block_cols_, block_depth_, block_rows_, panel_elements_, col_panels_;
  bool one_stretch_;
  Element *y_panels_, *x_panel_;
  float *tiles_, *strip_ = nullptr;
  int64_t strip_begin_ = 0;
};

struct Grid {
  int64_t rows, cols;
};

// How many threads share the rows and how many the columns. The slowest thread decides: its
// multiply-adds, plus the packing, where an element of X costs as much as 5 of them (per 512
// columns) and an element of Y as much as 13.
template <typename Kernel>
Grid choose_grid(const Problem& problem) {
  const int64_t macs = problem.rows * problem.cols * std::max<int64_t>(problem.depth, 1);
  const int64_t threads = std::min<int64_t>(num_threads(), macs / kThreadMacs);
  const int64_t row_panels = ceil_div(problem.rows, Kernel::kRows);
  const int64_t col_panels = ceil_div(problem.cols, Kernel::kCols);
  Grid best{1, 1};
  int64_t best_cost = INT64_MAX;
  for (int64_t r = 1; r <= std::max<int64_t>(threads, 1); ++r) {
    const Grid grid{std::min(r, row_panels),
                    std::min(std::max<int64_t>(threads / r, 1), col_panels)};
    const int64_t rows = ceil_div(row_panels, grid.rows) * Kernel::kRows;
    const int64_t cols = ceil_div(col_panels, grid.cols) * Kernel::kCols;
    const int64_t cost = rows * cols + 5 * rows * ceil_div(cols, kBlockCols) + 13 * cols;
    if (cost < best_cost) {
      best = grid;
      best_cost = cost;
    }
  }
  return best;
}

template <typename Kernel>
void multiply(const Problem& problem) {
  const Grid grid = choose_grid<Kernel>(problem);
  parallel_for(0, grid.rows * grid.cols, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      Region<Kernel>(problem, part(problem.rows, Kernel::kRows, grid.rows, i / grid.cols),
                     part(problem.cols, Kernel::kCols, grid.cols, i % grid.cols))
          .run();
  });
}

void multiply_any(const Problem& problem) {
  if (problem.cols <= kSkinnyCols) return multiply_skinny(problem);
#if defined(__x86_64__)
  // The widest panel that fits; three vectors only where two would leave more of a panel empty.
  switch (capability()) {
    case kAvx512Bf16:
      if (problem.cols <= 16) return multiply<Avx512Bf16Kernel<28, 1>>(problem);
      if (problem.cols > 32 && problem.cols <= 48) return multiply<Avx512Bf16Kernel<9, 3>>(problem);
      return multiply<Avx512Bf16Kernel<14, 2>>(problem);
    case kAvx512:
      if (problem.cols <= 16) return multiply<Avx512Kernel<28, 1>>(problem);
      return multiply<Avx512Kernel<14, 2>>(problem);
    case kAvx2:
      return multiply<Avx2Kernel>(problem);
    case kDefault:
      break;
  }
#endif
  multiply<DefaultKernel>(problem);
}

// The bias as FP32: itself, or a copy that `owner` keeps.
const float* fp32_bias(const Params& p, std::unique_ptr<float[]>& owner) {
  if (p.bias == nullptr || p.bias_dtype == Output::kFloat32) return (const float*)p.bias;
  owner.reset(new float[p.n]);
  for (int64_t j = 0; j < p.n; ++j)
    owner[j] = p.bias_dtype == Output::kBFloat16 ? to_float(((const BFloat16*)p.bias)[j])
                                                 : to_float(((const Half*)p.bias)[j]);
  return owner.get();
}

}  // namespace

void scaled_mm_cpu(const Params& params) {
  if (params.m == 0 || params.n == 0) return;
  std::unique_ptr<float[]> owner;
  const float* bias = fp32_bias(params, owner);
  // X is decoded as it comes, Y is transposed: better the smaller one, if turning the tiles back,
  // which costs as much as transposing four values of K for each row of a, does not undo the gain.
  const int64_t m = params.m, n = params.n, k = params.k;
  const bool swapped = m < n && (m <= 64 || (m <= 256 && 4 * m <= k));
  if (swapped) return multiply_any({params.b, params.a, n, m, k, true, params, bias});
  multiply_any({params.a, params.b, m, n, k, false, params, bias});
}

}  // namespace mpkernels::scaled_mm

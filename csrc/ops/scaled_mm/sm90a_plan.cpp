// Which instance, clustering and split of K a product gets: the cheapest by a model of the SM.
//
// The model counts clock cycles. What it knows of Hopper, per SM and cycle:
//   4096 FP8 multiply-adds of the tensor cores (1979 TFLOP/s on 132 SMs at 1.83 GHz);
//   128 bytes of shared memory: what wgmma reads (both operands of every 64 rows) and TMA writes;
//   46 bytes from L2 (DeepGEMM's cost model has 8e6 / 1.3e3 for 132 SMs), multicast counted once;
// and of all SMs together 1830 bytes from memory (3.35 TB/s). Absolute times would
// need a GPU to be trusted; the choice needs ratios only.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "ops/scaled_mm/sm90a.h"

namespace mpkernels::scaled_mm::sm90a {
namespace {

constexpr double kMultiplyAdds = 4096, kSharedBytes = 128, kL2Bytes = 46, kMemoryBytes = 1830;
// What fits beside the slowest resource still costs a little. Decides ties: for multicast, and for
// smaller tiles where memory is the limit.
constexpr double kBeside = 1.0 / 16;
constexpr double kStart = 1500;     // of a launch: until the first stage has arrived
constexpr double kTileStart = 500;  // of a tile: barriers, the last product's latency
constexpr double kSecondLaunch = 2500;
constexpr int kFewestBlocksOfSplit = 4;  // else filling and draining the ring is most of the work
constexpr int kMostSplits = 64, kSplitsTriedEach = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

int64_t bytes_of(HighPrecision type) { return type == HighPrecision::kFloat32 ? 4 : 2; }

// How a product is cut up.
struct Cut {
  int tile, cluster;
  int64_t x_tiles, y_tiles;  // in clusters
  int64_t k_blocks, k_blocks_per_split, splits;

  int64_t units() const { return x_tiles * y_tiles * splits; }
};

Cut cut(const Product& p, int tile, int cluster, int64_t splits) {
  const Tile& t = kTiles[tile];
  const int64_t x_rows = t.swapped ? p.n : p.m, y_rows = t.swapped ? p.m : p.n;
  Cut c{tile, cluster};
  c.x_tiles = ceil_div(x_rows, (int64_t)t.rows * (t.shares_x() ? 1 : cluster));
  c.y_tiles = ceil_div(y_rows, (int64_t)t.columns * (t.shares_x() ? cluster : 1));
  c.k_blocks = ceil_div(p.k, kBlockK);
  c.k_blocks_per_split = ceil_div(c.k_blocks, splits);
  c.splits = ceil_div(c.k_blocks, c.k_blocks_per_split);
  return c;
}

double block_cycles(const Tile& t, int cluster) {
  const double products = (double)t.rows * t.columns * kBlockK / kMultiplyAdds;
  const double read = t.rows / 64 * (64.0 + t.columns) * kBlockK;
  const double shared = (read + t.stage_bytes()) / kSharedBytes;
  const double both = std::max(t.rows, t.columns) * kBlockK;
  const double l2 = (t.stage_bytes() - (cluster - 1) * both / 2) / kL2Bytes;
  return std::max({products, shared, l2}) + kBeside * l2;
}

double cycles(const Product& p, const Cut& c, const DeviceFacts& facts) {
  const Tile& t = kTiles[c.tile];
  const int64_t clusters = std::max(facts.sm_count / c.cluster, 1);
  const int64_t rounds = ceil_div(c.units(), clusters);
  const bool split = c.splits > 1;
  const double out_bytes = split ? 4 : (double)bytes_of(p.out_type) * (p.accumulate ? 2 : 1);
  // Two blocks on an SM hide each other's epilogue.
  const double epilogue =
      (kTileStart + t.rows * t.columns * out_bytes / kL2Bytes) / t.blocks_per_sm;
  const double busy =
      (double)rounds * ((double)c.k_blocks_per_split * block_cycles(t, c.cluster) + epilogue);
  const double moved = ((double)p.m + p.n) * p.k + (double)p.m * p.n * out_bytes * c.splits;
  const double memory = moved / kMemoryBytes;
  double total = kStart + std::max(busy, memory) + kBeside * std::min(busy, memory);
  if (split)  // the partial sums are still in L2
    total += kSecondLaunch + (double)p.m * p.n * (4.0 * c.splits + bytes_of(p.out_type)) /
                                 (kL2Bytes * facts.sm_count);
  return total;
}

// K is split only where tiles leave SMs idle, into as many as fill one round of the grid, or into
// few for which a last round is nearly full. Partial sums must stay in L2.
void consider(const Product& p, const DeviceFacts& facts, int tile, int cluster,
              const Choice& choice, Cut& best, double& least) {
  const auto take_if_cheaper = [&](int64_t splits) {
    const Cut c = cut(p, tile, cluster, splits);
    const double needed = cycles(p, c, facts);
    if (needed < least) best = c, least = needed;
  };
  if (choice.splits > 0) return take_if_cheaper(choice.splits);
  take_if_cheaper(1);
  const Cut whole = cut(p, tile, cluster, 1);
  const int64_t clusters = std::max(facts.sm_count / cluster, 1);
  if (whole.units() >= clusters) return;
  const int64_t most = std::min({whole.k_blocks / kFewestBlocksOfSplit, (int64_t)kMostSplits,
                                 facts.l2_bytes / std::max<int64_t>(p.m * p.n * 4, 1)});
  for (int64_t splits = 2; splits <= std::min<int64_t>(most, kSplitsTriedEach); ++splits)
    take_if_cheaper(splits);
  const int64_t one_round = std::min(clusters / whole.units(), most);
  if (one_round > kSplitsTriedEach) take_if_cheaper(one_round);
}

Cut choose(const Product& p, const DeviceFacts& facts, const Choice& choice, double& least) {
  Cut best{};
  least = INFINITY;
  for (int tile = 0; tile < kTileCount; ++tile) {
    const Tile& t = kTiles[tile];
    if (choice.tile >= 0 ? tile != choice.tile : !t.promote && !p.use_fast_accum) continue;
    const bool along_m = t.shares_x() == t.swapped;
    for (int cluster = 1; cluster <= 2; ++cluster) {
      if (choice.cluster > 0 && cluster != choice.cluster) continue;
      // A second tile that is all outside of the matrix would be work for nothing.
      const int64_t tiles = along_m ? ceil_div(p.m, t.swapped ? t.columns : t.rows)
                                    : ceil_div(p.n, t.swapped ? t.rows : t.columns);
      if (choice.cluster < 0 && tiles < cluster) continue;
      consider(p, facts, tile, cluster, choice, best, least);
    }
  }
  return best;
}

// Rows of X in a group, so that what a round of the grid reads, group * rows + (SMs / group) *
// columns rows of K, is least (DeepGEMM's rule).
int64_t group_of(const Cut& c, const DeviceFacts& facts) {
  const Tile& t = kTiles[c.tile];
  const int64_t width = t.columns * (t.shares_x() ? c.cluster : 1);
  const int64_t height = t.rows * (t.shares_x() ? 1 : c.cluster);
  const int64_t clusters = std::max(facts.sm_count / c.cluster, 1);
  int64_t best = 1, least = INT64_MAX;
  for (const int64_t group : {1, 2, 4, 8, 16}) {
    const int64_t rows = group * height + ceil_div(clusters, group) * width;
    if (rows < least) best = group, least = rows;
  }
  return std::min(best, c.x_tiles);
}

// With one row any pitch will do, even one that TMA would refuse.
int64_t pitch_bytes(int64_t rows, int64_t pitch, int64_t columns, int64_t element) {
  return rows > 1 ? pitch * element : round_up(columns * element, 16);
}

MatrixMap operand_map(const uint8_t* data, int64_t rows, int64_t k, int64_t pitch, int box_rows) {
  return {.address = data,
          .rows = (uint64_t)rows,
          .columns = (uint64_t)k,
          .pitch_bytes = (uint64_t)pitch_bytes(rows, pitch, k, 1),
          .box_rows = (uint32_t)box_rows,
          .box_columns = kBlockK,
          .element = MapElement::kByte};
}

MatrixMap out_map(void* data, int64_t rows, int64_t n, int64_t pitch, HighPrecision type,
                  int box_rows) {
  const int64_t element = bytes_of(type);
  return {.address = data,
          .rows = (uint64_t)rows,
          .columns = (uint64_t)n,
          .pitch_bytes = (uint64_t)pitch_bytes(rows, pitch, n, element),
          .box_rows = (uint32_t)box_rows,
          .box_columns = (uint32_t)(128 / element),
          .element = type == HighPrecision::kFloat32    ? MapElement::kFloat32
                     : type == HighPrecision::kBFloat16 ? MapElement::kBFloat16
                                                        : MapElement::kFloat16};
}

void plan_finish(Plan& plan, const Product& p, const DeviceFacts& facts, const float* partials,
                 int64_t partial_pitch, int64_t split_stride) {
  const int64_t element = bytes_of(p.out_type);
  const bool wide = (uintptr_t)p.out % (4 * element) == 0 && (p.m == 1 || p.out_pitch % 4 == 0);
  plan.finish = {partials,
                 partial_pitch,
                 split_stride,
                 p.dequant_scale_a,
                 p.dequant_scale_b,
                 p.bias,
                 p.out,
                 p.out_pitch,
                 p.m,
                 p.n,
                 plan.splits,
                 p.out_type,
                 p.bias_type,
                 p.accumulate,
                 wide};
  const int64_t blocks = ceil_div(p.m * ceil_div(p.n, 4), kFinishThreads);
  const int64_t resident =
      (int64_t)facts.sm_count * (threads_per_sm(facts.architecture) / kFinishThreads);
  plan.finish_shape = {{(uint32_t)std::min(blocks, resident)}, {kFinishThreads}};
}

// Where the sums go: to out by TMA or element by element, or as partial sums to the workspace.
void plan_out(Plan& plan, const Product& p, const Cut& c, const DeviceFacts& facts,
              void* workspace) {
  const Tile& t = kTiles[c.tile];
  const int panel_rows = t.swapped ? t.columns : 64;
  Params& k = plan.params;
  if (c.splits > 1) {
    const int64_t pitch = round_up(p.n, 4);
    const int64_t rows = t.swapped ? c.y_tiles * t.columns * (t.shares_x() ? c.cluster : 1)
                                   : c.x_tiles * t.rows * (t.shares_x() ? 1 : c.cluster);
    k.split_rows = (int32_t)rows;
    k.out_type = HighPrecision::kFloat32;
    k.emit = Emit::kTile;
    plan.workspace_bytes = c.splits * rows * pitch * 4;
    plan.out = out_map(workspace, c.splits * rows, p.n, pitch, k.out_type, panel_rows);
    plan_finish(plan, p, facts, (const float*)workspace, pitch, rows * pitch);
    return;
  }
  k.dequant_scale_a = p.dequant_scale_a;
  k.dequant_scale_b = p.dequant_scale_b;
  k.bias = p.bias;
  k.out_type = p.out_type;
  k.bias_type = p.bias_type;
  k.accumulate = p.accumulate;
  plan.out = out_map(p.out, p.m, p.n, p.out_pitch, p.out_type, panel_rows);
  const bool round_once = p.accumulate && p.out_type != HighPrecision::kFloat32;
  if (round_once || !can_map(p.out, (int64_t)plan.out.pitch_bytes)) {
    k.emit = Emit::kElements;
    k.elements = p.out;
    k.pitch = p.out_pitch;
  } else {
    k.emit = p.accumulate ? Emit::kAddTile : Emit::kTile;
  }
}

}  // namespace

const char* why_not(const Product& p, const DeviceFacts& facts) {
  if (facts.architecture != 90) return "needs sm_90";
  // TMA counts rows and columns with 32-bit signed integers; tiles may reach beyond the matrix.
  constexpr int64_t kMost = INT32_MAX - 512;
  if (p.m > kMost || p.n > kMost || p.k > kMost) return "M, N or K is beyond 2^31 - 512";
  for (const Tile& t : kTiles)  // they are counted in 31 bits
    if (ceil_div(t.swapped ? p.n : p.m, t.rows) * ceil_div(t.swapped ? p.m : p.n, t.columns) >
        INT32_MAX)
      return "out has 2^31 tiles or more";
  if ((p.m > 1 && p.pitch_a < p.k) || (p.n > 1 && p.pitch_b < p.k))
    return "rows of a or b overlap, which TMA does not address";
  return nullptr;
}

Plan plan(const Product& p, const DeviceFacts& facts, void* workspace, const Choice& choice) {
  Plan plan;
  if (p.k == 0) {
    plan_finish(plan, p, facts, nullptr, 0, 0);
    return plan;
  }
  const Cut c = choose(p, facts, choice, plan.cycles);
  const Tile& t = kTiles[c.tile];
  plan.tile = c.tile;
  plan.splits = (int)c.splits;
  plan.cluster = c.cluster;
  const int x_box = t.rows / (t.shares_x() ? c.cluster : 1);
  const int y_box = t.columns / (t.shares_x() ? 1 : c.cluster);
  plan.x = operand_map(t.swapped ? p.b : p.a, t.swapped ? p.n : p.m, p.k,
                       t.swapped ? p.pitch_b : p.pitch_a, x_box);
  plan.y = operand_map(t.swapped ? p.a : p.b, t.swapped ? p.m : p.n, p.k,
                       t.swapped ? p.pitch_a : p.pitch_b, y_box);
  Params& k = plan.params;
  k.m = (int32_t)p.m;
  k.n = (int32_t)p.n;
  k.x_tiles = (int32_t)c.x_tiles;
  k.y_tiles = (int32_t)c.y_tiles;
  k.k_blocks = (int32_t)c.k_blocks;
  k.k_blocks_per_split = (int32_t)c.k_blocks_per_split;
  k.units = (uint32_t)c.units();
  k.group = (int32_t)group_of(c, facts);
  k.cluster = c.cluster;
  plan_out(plan, p, c, facts, workspace);
  const int64_t clusters = std::max(facts.sm_count / c.cluster, 1) * t.blocks_per_sm;
  plan.shape = {{(uint32_t)(std::min(c.units(), clusters) * c.cluster)},
                {(uint32_t)t.threads()},
                (uint32_t)t.shared_bytes(),
                {(uint32_t)c.cluster}};
  return plan;
}

int64_t workspace_bytes(const Product& product, const DeviceFacts& facts) {
  return plan(product, facts, nullptr).workspace_bytes;
}

std::string describe(const Product& p, const DeviceFacts& facts) {
  const Plan found = plan(p, facts, nullptr);
  if (found.tile < 0) return "K is 0: bias and out only";
  const Tile& t = kTiles[found.tile];
  const Params& k = found.params;
  const double needed = (double)p.m * p.n * p.k / kMultiplyAdds / facts.sm_count;
  // Of the busiest SM's main loop: what its CTAs have TMA bring.
  const double rounds = (double)ceil_div(k.units, std::max(facts.sm_count / found.cluster, 1));
  const double tma = rounds * k.k_blocks_per_split * t.stage_bytes() / found.cycles;
  const double promotion = t.promote ? (double)t.rows * t.columns / 128 : 0;  // 128 FP32 lanes
  char text[320];
  std::snprintf(
      text, sizeof(text),
      "%s, %d x %d in clusters of %d, K in %d, grid %u, %.0f round%s; model: %.0f cycles, "
      "tensor cores %.0f %%, TMA %.0f B/cycle, promotion %.0f of %.0f cycles a block of K",
      t.name, k.x_tiles, k.y_tiles, found.cluster, found.splits, found.shape.grid.x, rounds,
      rounds > 1 ? "s" : "", found.cycles, 100 * needed / found.cycles, tma, promotion,
      block_cycles(t, found.cluster));
  return text;
}

}  // namespace mpkernels::scaled_mm::sm90a

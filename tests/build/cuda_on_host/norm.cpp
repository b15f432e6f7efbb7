// The norm kernels on the host, every variant, against float64. Prints a line per case and exits 1 if one is wrong.
#include "fastseg/norm.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "cuda_on_host.h"

using namespace fastseg;

namespace {

std::mt19937 generator(7);
int wrong = 0;

double to_double(float value) { return value; }
double to_double(double value) { return value; }
double to_double(__nv_bfloat16 value) { return __bfloat162float(value); }
double to_double(__half value) { return __half2float(value); }
void from_double(double value, float& to) { to = static_cast<float>(value); }
void from_double(double value, double& to) { to = value; }
void from_double(double value, __nv_bfloat16& to) { to = __float2bfloat16_rn(static_cast<float>(value)); }
void from_double(double value, __half& to) { to = __float2half_rn(static_cast<float>(value)); }
template <typename T>
constexpr Element element_of = std::is_same_v<T, float>    ? Element::float32
                               : std::is_same_v<T, double> ? Element::float64
                               : std::is_same_v<T, __half> ? Element::float16
                                                           : Element::bfloat16;
template <typename T>
constexpr double rounding = std::is_same_v<T, float>    ? 2e-6
                            : std::is_same_v<T, double> ? 1e-13
                            : std::is_same_v<T, __half> ? 6e-4
                                                        : 4.5e-3;

// Rows with a gap after each, all bits of which are set: NaN where a kernel reads it, changed where it writes.
template <typename T>
struct Rows {
  int64_t batch, channels, spatial, channel_stride, batch_stride;
  std::vector<T> storage;

  Rows(int64_t b, int64_t c, int64_t s, int64_t gap, double mean = 0, double deviation = 1)
      : batch(b), channels(c), spatial(s), channel_stride(s + gap), batch_stride(c * (s + gap) + 2 * gap) {
    storage.resize(batch * batch_stride + 16);
    std::memset(static_cast<void*>(storage.data()), 0xff, storage.size() * sizeof(T));
    if (deviation == 0) return;  // an output
    std::normal_distribution<double> normal(mean, deviation);
    for (int64_t row = 0; row < batch * channels; ++row) {
      for (int64_t i = 0; i < spatial; ++i) from_double(normal(generator), at(row)[i]);
    }
  }
  T* at(int64_t row) { return storage.data() + row / channels * batch_stride + row % channels * channel_stride; }
  View view() { return {storage.data(), element_of<T>, batch_stride, channel_stride, 1}; }
  bool gaps_untouched() {
    std::vector<char> inside(storage.size(), 0);
    for (int64_t row = 0; row < batch * channels; ++row) {
      std::fill_n(inside.begin() + (at(row) - storage.data()), spatial, 1);
    }
    for (size_t i = 0; i < storage.size(); ++i) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(&storage[i]);
      if (!inside[i] && std::any_of(bytes, bytes + sizeof(T), [](unsigned char byte) { return byte != 0xff; })) {
        return false;
      }
    }
    return true;
  }
};

std::string variant_that_ran() {
  const auto& launches = cuda_on_host::launches;
  if (launches.size() == 3) return "stream";
  if (launches.size() != 1) return "?";
  return launches[0].shared_bytes == 0 ? "registers" : "shared/" + std::to_string(launches[0].cluster);
}

void report(const char* what, const char* type, int64_t spatial, const std::string& expected, double error,
            double allowed, bool gaps) {
  const std::string ran = variant_that_ran();
  const bool good = error <= allowed && gaps && ran == expected;
  wrong += !good;
  std::printf("%s %-8s %-8s spatial %7lld  %-10s error %.1e of %.1e%s%s\n", good ? "ok  " : "FAIL", what, type,
              static_cast<long long>(spatial), ran.c_str(), error, allowed, gaps ? "" : "  wrote between rows",
              ran == expected ? "" : (", expected " + expected).c_str());
}

double act(double z, Activation kind, double slope) {
  return z <= 0 ? (kind == Activation::relu ? 0 : kind == Activation::none ? z : z * slope) : z;
}

template <typename T>
void check_call(const char* type, int64_t batch, int64_t channels, int64_t spatial, int64_t gap,
                const std::string& forward, const std::string& backward, bool with_residual, Activation kind,
                double mean_of_x = 0.5) {
  using C = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const int64_t rows = batch * channels;
  const double slope = 0.01, eps = 1e-5;
  Rows<T> x(batch, channels, spatial, gap, mean_of_x), residual(batch, channels, spatial, gap);
  Rows<T> grad(batch, channels, spatial, 2 * gap), y(batch, channels, spatial, gap, 0, 0);
  Rows<T> dx(batch, channels, spatial, gap, 0, 0), dresidual(batch, channels, spatial, 2 * gap, 0, 0);
  std::vector<__half> weight(3 * channels);  // strided, and of another type than x
  std::vector<double> bias(channels);
  std::normal_distribution<double> normal(0, 1);
  for (auto& value : weight) from_double(normal(generator), value);
  for (auto& value : bias) value = normal(generator);
  std::vector<C> mean(rows), rstd(rows), dweight(rows), dbias(rows);
  std::vector<double> workspace(cuda::instance_norm_act_workspace(batch, channels, spatial, element_of<T>) / 8 + 1);
  std::memset(workspace.data(), 0xff, workspace.size() * 8);

  InstanceNormActForward f = {};
  f.batch = batch, f.channels = channels, f.spatial = spatial;
  f.x = x.view(), f.y = y.view();
  if (with_residual) f.residual = residual.view();
  f.weight = {weight.data(), Element::float16, 3};
  f.bias = {bias.data(), Element::float64, 1};
  f.mean = mean.data(), f.rstd = rstd.data();
  f.activation = kind, f.negative_slope = slope, f.eps = eps;
  cuda_on_host::launches.clear();
  cuda::instance_norm_act_forward(f, workspace.data(), nullptr);

  double error = 0;
  for (int64_t row = 0; row < rows; ++row) {
    long double sum = 0;
    for (int64_t i = 0; i < spatial; ++i) sum += to_double(x.at(row)[i]);
    const double exact_mean = static_cast<double>(sum / spatial);
    double squares = 0;
    for (int64_t i = 0; i < spatial; ++i) squares += std::pow(to_double(x.at(row)[i]) - exact_mean, 2) / spatial;
    const double exact_rstd = 1 / std::sqrt(squares + eps), w = to_double(weight[3 * (row % channels)]);
    error = std::max(
        {error, std::abs(mean[row] - exact_mean) / (1 + std::abs(exact_mean)), std::abs(rstd[row] / exact_rstd - 1)});
    for (int64_t i = 0; i < spatial; ++i) {
      double z = (to_double(x.at(row)[i]) - exact_mean) * exact_rstd * w + bias[row % channels];
      if (with_residual) z += to_double(residual.at(row)[i]);
      const double expected = act(z, kind, slope), difference = to_double(y.at(row)[i]) - expected;
      error = std::isnan(difference) ? INFINITY : std::max(error, std::abs(difference) / (1 + std::abs(expected)));
    }
  }
  // Half a unit in the last place of the mean, in deviations: 6e-4 for a float near 1e4.
  const double allowed = rounding<T> + (std::is_same_v<C, float> ? 6e-8 : 2e-16) * std::abs(mean_of_x);
  report("forward", type, spatial, forward, error, allowed, y.gaps_untouched());

  InstanceNormActBackward b = {};
  b.batch = batch, b.channels = channels, b.spatial = spatial;
  b.grad = grad.view(), b.x = x.view(), b.dx = dx.view();
  b.weight = f.weight, b.bias = f.bias;
  if (with_residual) b.y = y.view(), b.dresidual = dresidual.view();
  b.mean = mean.data(), b.rstd = rstd.data();
  b.dweight = dweight.data(), b.dbias = dbias.data();
  b.activation = kind, b.negative_slope = slope;
  cuda_on_host::launches.clear();
  std::memset(workspace.data(), 0xff, workspace.size() * 8);
  cuda::instance_norm_act_backward(b, workspace.data(), nullptr);

  error = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const double w = to_double(weight[3 * (row % channels)]);
    std::vector<double> g(spatial), xhat(spatial);
    double db = 0, dw = 0;
    for (int64_t i = 0; i < spatial; ++i) {
      xhat[i] = (to_double(x.at(row)[i]) - mean[row]) * static_cast<double>(rstd[row]);
      const double sign = with_residual ? to_double(y.at(row)[i])
                                        : std::fma(to_double(x.at(row)[i]) - mean[row],
                                                   static_cast<double>(static_cast<C>(rstd[row] * static_cast<C>(w))),
                                                   static_cast<double>(static_cast<C>(bias[row % channels])));
      g[i] = to_double(grad.at(row)[i]);
      if (sign <= 0 && kind != Activation::none) g[i] *= kind == Activation::relu ? 0 : slope;
      db += g[i];
      dw += g[i] * xhat[i];
    }
    error = std::max({error, std::abs(dbias[row] - db) / spatial, std::abs(dweight[row] - dw) / spatial});
    for (int64_t i = 0; i < spatial; ++i) {
      const double expected = w * rstd[row] * (g[i] - db / spatial - xhat[i] * dw / spatial);
      double difference = std::abs(to_double(dx.at(row)[i]) - expected) / (1 + std::abs(expected));
      if (with_residual) difference = std::max(difference, std::abs(to_double(dresidual.at(row)[i]) - g[i]));
      error = std::isnan(difference) ? INFINITY : std::max(error, difference);
    }
  }
  report("backward", type, spatial, backward, error, 3 * rounding<T>,
         dx.gaps_untouched() && dresidual.gaps_untouched());
}

// NaN and infinity: one NaN makes its row NaN and no other; ReLU's backward gives 0, not NaN, for an infinite grad.
void check_not_finite() {
  Rows<float> x(1, 3, 8, 0), y(1, 3, 8, 0, 0, 0), grad(1, 3, 8, 0), dx(1, 3, 8, 0, 0, 0), dr(1, 3, 8, 0, 0, 0);
  float mean[3], rstd[3], dweight[3], dbias[3];
  x.at(1)[3] = NAN;
  InstanceNormActForward f = {1, 3, 8, x.view(), {}, {}, {}, y.view(), mean, rstd, Activation::relu, 0, 1e-5};
  cuda::instance_norm_act_forward(f, nullptr, nullptr);
  bool good = true;
  for (int i = 0; i < 8; ++i) good = good && std::isnan(y.at(1)[i]) && y.at(0)[i] >= 0 && y.at(2)[i] >= 0;
  const int negative = static_cast<int>(std::min_element(y.at(0), y.at(0) + 8) - y.at(0));
  grad.at(0)[negative] = INFINITY;
  InstanceNormActBackward b = {1,         3,         8,       grad.view(), x.view(),         {}, {}, {}, mean, rstd,
                               dx.view(), dr.view(), dweight, dbias,       Activation::relu, 0};
  cuda::instance_norm_act_backward(b, nullptr, nullptr);
  good = good && dr.at(0)[negative] == 0 && std::isfinite(dbias[0]) && std::isnan(dx.at(1)[0]);
  std::printf("%s NaN and infinity\n", good ? "ok  " : "FAIL");
  wrong += !good;
}

}  // namespace

int main() {
  constexpr auto none = Activation::none, relu = Activation::relu, leaky = Activation::leaky_relu;
  // A small device, so that small rows take the paths of large ones.
  cuda_on_host::device = {1, 36 * 1024, 2 * 37 * 1024, 4, 4};
  for (int64_t spatial : {1, 2, 3, 7, 31, 33, 100, 257, 512}) {
    check_call<float>("float", 2, 3, spatial, 0, "registers", "registers", spatial % 2, leaky);
  }
  for (int64_t spatial : {4, 8, 24, 64, 512}) {
    check_call<float>("float/4", 3, 43, spatial, 4, "registers", "registers", false, relu);
    check_call<__nv_bfloat16>("bf16/8", 1, 5, 2 * spatial, 8, "registers", "registers", true, leaky);
    check_call<__half>("half/8", 2, 2, 2 * spatial, 8, "registers", "registers", true, relu);
    check_call<double>("double/2", 2, 2, spatial / 2, 2, "registers", "registers", false, none);
  }
  check_call<float>("float/4", 2, 3, 516, 4, "shared/1", "shared/1", true, leaky);
  check_call<float>("float", 2, 3, 4001, 3, "shared/1", "shared/1", false, leaky);
  check_call<float>("float/4", 1, 5, 9 * 1024, 0, "shared/2", "shared/4", false, relu);
  check_call<float>("float/4", 1, 2, 16004, 4, "shared/2", "shared/4", false, leaky);
  check_call<float>("float", 1, 2, 14005, 0, "shared/2", "shared/4", true, leaky);  // backward: above the cluster
  check_call<float>("float/4", 1, 2, 30004, 0, "shared/4", "stream", true, leaky, 1e4);
  check_call<float>("float", 1, 2, 40005, 0, "shared/4", "stream", false, relu, 1e4);  // forward: above the cluster
  check_call<float>("float/4", 1, 2, 20004, 0, "shared/4", "shared/4", false, relu);   // backward: likewise
  check_call<float>("float/4", 2, 2, 60004, 4, "stream", "stream", true, leaky, 1e4);
  check_call<float>("float", 2, 2, 50003, 1, "stream", "stream", false, leaky);
  check_call<double>("double/2", 1, 2, 2, 2, "registers", "registers", true, leaky);
  check_call<double>("double/2", 1, 2, 8002, 0, "shared/2", "shared/4", false, relu);
  check_call<double>("double", 1, 2, 30001, 0, "stream", "stream", true, leaky, 1e4);
  check_call<__nv_bfloat16>("bf16/8", 1, 2, 60008, 8, "shared/4", "stream", true, leaky);
  check_call<__nv_bfloat16>("bf16", 1, 2, 30001, 1, "shared/2", "shared/4", false, leaky);
  check_call<__half>("half/8", 1, 2, 80008, 0, "shared/4", "stream", false, relu);
  check_call<__half>("half", 1, 1, 100001, 0, "stream", "stream", true, none);
  // Without clusters, and an H100 as it is.
  cuda_on_host::device = {2, 36 * 1024, 2 * 37 * 1024, 4, 1};
  check_call<float>("float/4", 1, 2, 16004, 0, "stream", "stream", false, leaky);
  cuda_on_host::device = cuda_on_host::Device();
  check_call<float>("float/4", 1, 1, 64 * 64 * 32, 0, "shared/8", "shared/8", true, leaky, 1e4);
  check_call<float>("float/4", 1, 1, 64 * 64 * 64, 0, "shared/8", "shared/16", true, leaky, -1e4);
  check_not_finite();
  std::printf("%s\n", wrong == 0 ? "all cases right" : "some cases are wrong");
  return wrong == 0 ? 0 : 1;
}

// The up-convolution: a transposed convolution whose stride is its kernel. A pixel of a coarse image becomes a patch of
// a fine one, of as many pixels as the kernel has taps; no two patches have pixels in common. So it is a product of
// matrices, coarse [pixels][channels] by weight to fine [pixels][taps * fine_channels], whose columns lie in several
// places.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

struct UpConvShape {
  int64_t batch, channels, fine_channels;
  int64_t size[3], kernel[3];  // of the coarse image, depth first; those of the fine one are the products of both

  int64_t pixels() const { return size[0] * size[1] * size[2]; }
  int64_t columns() const { return kernel[0] * kernel[1] * kernel[2] * fine_channels; }
};

// Each View is rows or channels-last; they have one element type, and so has weight.
struct UpConv {
  UpConvShape shape;
  View coarse, fine;
  const void* weight;  // [channels][taps][fine_channels], dense
  Vector bias;         // [taps * fine_channels], optional; not of the gradient
};

// Gradients of the parameters: float32, or float64 where the images are.
struct UpConvParameterGradient {
  UpConvShape shape;
  View coarse, fine;  // x and the gradient of y
  void* dweight;      // as weight, written
  void* dbias;        // [taps * fine_channels], written
};

namespace cpu {
void up_conv(const UpConv& args, int threads);           // writes fine
void up_conv_gradient(const UpConv& args, int threads);  // that of x: writes coarse
void up_conv_parameter_gradient(const UpConvParameterGradient& args, int threads);
}  // namespace cpu

}  // namespace fastseg

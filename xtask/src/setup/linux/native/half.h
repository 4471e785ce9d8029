// Read by bindgen in place of mlx-c's half.h: the types that mlx-rs expects, which are those clang finds on macOS.
#include <stdint.h>
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef __fp16 float16_t;
typedef uint16_t bfloat16_t;

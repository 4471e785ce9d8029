//! mlx-ext

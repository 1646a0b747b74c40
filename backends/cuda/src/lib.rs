//! The CUDA backend: under construction. It opens nothing yet, and the command refuses it by name.

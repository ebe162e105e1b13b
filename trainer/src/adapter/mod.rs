//! Trained adapters on the disk: folders of this program, of PEFT and of mlx-lm, and files of llama.cpp.

pub mod folder;
pub mod gguf;
pub mod mlx;

pub use hydra_shared::files::peft;

//! Trained adapters on the disk: folders of this program, of PEFT, and files of llama.cpp.

pub mod folder;
pub mod gguf;
pub mod peft;

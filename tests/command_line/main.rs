//! The program from outside: what it prints, how it exits, what it leaves on the disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly, its helpers too")]

mod adapters;
mod adapters_any_model;
mod basics;
mod benchmarks;
#[cfg(unix)]
mod clusters;
mod conversation;
mod experiment;
#[cfg(feature = "wgpu")]
mod gpu;
mod gradient_logs;
mod inspect;
mod llava;
mod models;
mod outside;
mod parity;
mod peft;
mod plan;
mod plan_input;
mod plan_modules;
mod scores;
mod settings;
mod support;
mod training;

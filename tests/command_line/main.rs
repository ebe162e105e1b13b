//! The program from outside: what it prints, how it exits, what it leaves on the disk.

mod basics;
mod inspect;
mod plan;
mod plan_input;
mod support;
mod training;

//! Mounts the page.

fn main() {
    hydra_web::start();
}

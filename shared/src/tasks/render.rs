//! Painting a scene.
//!
//! Coverage is counted on a 4 × 4 grid of sample points per pixel in whole numbers: anti-aliased and the same to the
//! byte everywhere.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::attributes::Shape;
use super::scene::{Scene, SceneObject};

/// An image of 8-bit sRGB pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Red, green, blue of each pixel, row by row from the top left: 3 · width · height bytes.
    pub rgb: Vec<u8>,
}

/// Sample points per pixel and axis.
const SAMPLES: i64 = 4;

impl Scene {
    /// Paints the scene.
    pub fn render(&self) -> Picture {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut rgb = vec![0; 3 * width * height];
        self.paint_background(&mut rgb);
        for object in &self.objects {
            for row in 0..object.side {
                for column in 0..object.side {
                    let covered = coverage(object, column, row);
                    let start = 3 * ((object.y + row) as usize * width + (object.x + column) as usize);
                    if covered == 0 {
                        continue;
                    }
                    if let Some(pixel) = rgb.get_mut(start..start + 3) {
                        for (level, color) in pixel.iter_mut().zip(object.rgb) {
                            *level = blend(*level, color, covered);
                        }
                    }
                }
            }
        }
        self.add_noise(&mut rgb);
        Picture { width: self.width, height: self.height, rgb }
    }

    fn paint_background(&self, rgb: &mut [u8]) {
        let (width, height) = (self.width as i32, self.height as i32);
        let [right, down] = self.shading.map(i32::from);
        let mut pixels = rgb.chunks_exact_mut(3);
        for row in 0..height {
            for column in 0..width {
                let shade = right * column / width + down * row / height;
                if let Some(pixel) = pixels.next() {
                    for (level, base) in pixel.iter_mut().zip(self.background) {
                        *level = (i32::from(base) + shade).clamp(0, 255) as u8;
                    }
                }
            }
        }
    }

    fn add_noise(&self, rgb: &mut [u8]) {
        if self.noise == 0 {
            return;
        }
        let span = 2 * i32::from(self.noise) + 1;
        let mut bytes = vec![0; rgb.len()];
        ChaCha8Rng::seed_from_u64(self.noise_seed).fill_bytes(&mut bytes);
        for (level, byte) in rgb.iter_mut().zip(bytes) {
            // Scaled, not taken modulo: no value is twice as likely as another.
            let change = (i32::from(byte) * span) / 256 - i32::from(self.noise);
            *level = (i32::from(*level) + change).clamp(0, 255) as u8;
        }
    }
}

/// Sample points of a pixel of an object's box that lie inside the object, 0 to 16.
fn coverage(object: &SceneObject, column: u32, row: u32) -> u32 {
    // In units of an eighth of a pixel every sample point and every edge is a whole number.
    let side = 8 * i64::from(object.side);
    let mut inside = 0;
    for sample_y in 0..SAMPLES {
        for sample_x in 0..SAMPLES {
            let x = 8 * i64::from(column) + 2 * sample_x + 1;
            let y = 8 * i64::from(row) + 2 * sample_y + 1;
            inside += u32::from(contains(object.shape, side, x, y));
        }
    }
    inside
}

/// Whether a point lies inside a shape that fills the square from 0 to `side`.
fn contains(shape: Shape, side: i64, x: i64, y: i64) -> bool {
    // Twice the offset from the centre.
    let (dx, dy) = (2 * x - side, 2 * y - side);
    match shape {
        Shape::Circle => dx * dx + dy * dy <= side * side,
        Shape::Square => true,
        // The width grows from nothing at the top to the whole side at the bottom.
        Shape::Triangle => dx.abs() <= y,
        Shape::Cross => 3 * dx.abs() <= side || 3 * dy.abs() <= side,
    }
}

fn blend(below: u8, above: u8, covered: u32) -> u8 {
    let all = (SAMPLES * SAMPLES) as u32;
    ((u32::from(below) * (all - covered) + u32::from(above) * covered + all / 2) / all) as u8
}

#[cfg(test)]
mod tests {
    use super::super::attributes::{Cell, Color, Size};
    use super::*;

    fn scene(shape: Shape, side: u32, noise: u8) -> Scene {
        let object = SceneObject {
            shape,
            color: Color::Red,
            size: Size::Small,
            cell: Cell { row: 1, column: 1 },
            x: 3,
            y: 4,
            side,
            rgb: [255, 0, 0],
        };
        Scene {
            width: 24,
            height: 20,
            objects: vec![object],
            background: [0, 0, 255],
            shading: [0, 0],
            noise,
            noise_seed: 5,
        }
    }

    /// Share of red of each pixel, 0 to 255.
    fn red(picture: &Picture) -> Vec<u8> {
        picture.rgb.chunks_exact(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn every_shape_touches_all_four_edges_of_its_box_and_leaves_what_is_outside_untouched() {
        for shape in Shape::ALL {
            for side in 9..=12 {
                let picture = scene(shape, side, 0).render();
                let painted: Vec<(usize, usize)> = (0..20)
                    .flat_map(|y| (0..24).map(move |x| (x, y)))
                    .filter(|(x, y)| red(&picture)[24 * y + x] > 0)
                    .collect();
                let bounds = |of: fn(&(usize, usize)) -> usize| {
                    (painted.iter().map(of).min().unwrap(), painted.iter().map(of).max().unwrap())
                };
                assert_eq!(bounds(|p| p.0), (3, 2 + side as usize), "{shape:?} {side}");
                assert_eq!(bounds(|p| p.1), (4, 3 + side as usize), "{shape:?} {side}");
            }
        }
    }

    #[test]
    fn a_square_is_painted_whole_and_a_disc_covers_a_quarter_of_pi() {
        let area = |shape, side| -> f64 {
            red(&scene(shape, side, 0).render()).iter().map(|level| f64::from(*level) / 255.0).sum()
        };
        assert_eq!(area(Shape::Square, 10), 100.0);
        assert!((area(Shape::Circle, 11) / 121.0 - std::f64::consts::FRAC_PI_4).abs() < 0.01);
        assert!((area(Shape::Triangle, 11) / 121.0 - 0.5).abs() < 0.02);
        // Two bars less the middle that they share: 2/3 - 1/9.
        assert!((area(Shape::Cross, 12) / 144.0 - 5.0 / 9.0).abs() < 0.01);
    }

    #[test]
    fn a_disc_is_symmetric() {
        let levels = red(&scene(Shape::Circle, 11, 0).render());
        for row in 0..11 {
            for column in 0..11 {
                let at = |column: usize, row: usize| levels[24 * (4 + row) + 3 + column];
                assert_eq!(at(column, row), at(10 - column, row));
                assert_eq!(at(column, row), at(row, column));
            }
        }
    }

    #[test]
    fn noise_stays_within_its_bound_and_depends_on_its_seed_alone() {
        let mut plain = scene(Shape::Square, 9, 0);
        plain.background = [100, 128, 150];
        plain.objects[0].rgb = [220, 40, 40];
        let noisy = Scene { noise: 8, ..plain.clone() };
        let (clean, dirty) = (plain.render(), noisy.render());
        let changes: Vec<i32> = clean.rgb.iter().zip(&dirty.rgb).map(|(a, b)| i32::from(*b) - i32::from(*a)).collect();
        assert_eq!((changes.iter().min(), changes.iter().max()), (Some(&-8), Some(&8)));
        assert!((changes.iter().sum::<i32>() as f64 / changes.len() as f64).abs() < 0.5);
        assert_eq!(noisy.render(), dirty);
        assert_ne!(Scene { noise_seed: 6, ..noisy }.render(), dirty);
    }
}

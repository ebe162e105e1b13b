//! Scenes: what a picture shows, as plain data, drawn at random from a seed.
//!
//! Only integers are drawn and only integers decide, so a seed gives the same scene on every processor.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::attributes::{Cell, Color, Shape, Size};
use crate::benchmarks::BoundingBox;

/// One object of a scene.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SceneObject {
    /// Outline.
    pub shape: Shape,
    /// Colour by name.
    pub color: Color,
    /// Size class.
    pub size: Size,
    /// Where its centre lies in the 3 × 3 grid.
    pub cell: Cell,
    /// Left edge in pixels.
    pub x: u32,
    /// Top edge in pixels.
    pub y: u32,
    /// Width and height in pixels.
    pub side: u32,
    /// Colour as painted: the named one with jitter.
    pub rgb: [u8; 3],
}

impl SceneObject {
    /// The box that the object fills, exactly.
    pub fn bounding_box(&self) -> BoundingBox {
        BoundingBox {
            x1: self.x as f32,
            y1: self.y as f32,
            x2: (self.x + self.side) as f32,
            y2: (self.y + self.side) as f32,
        }
    }

    /// Twice the centre, so that it is a whole number of half pixels.
    pub fn doubled_center(&self) -> (u32, u32) {
        (2 * self.x + self.side, 2 * self.y + self.side)
    }

    /// Shape and colour together: what existence questions ask for.
    pub fn combination(&self) -> Combination {
        Combination { color: self.color, shape: self.shape }
    }

    fn overlaps(&self, other: &SceneObject, gap: u32) -> bool {
        let apart = |a: u32, a_side: u32, b: u32, b_side: u32| a + a_side + gap <= b || b + b_side + gap <= a;
        !apart(self.x, self.side, other.x, other.side) && !apart(self.y, self.side, other.y, other.side)
    }
}

/// A colour and a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Combination {
    /// The colour.
    pub color: Color,
    /// The shape.
    pub shape: Shape,
}

impl Combination {
    /// All combinations that a configuration's pictures can show, colours outside, shapes inside.
    pub fn all(config: &SceneConfig) -> Vec<Combination> {
        config
            .colors()
            .iter()
            .flat_map(|color| config.shapes().iter().map(|shape| Combination { color: *color, shape: *shape }))
            .collect()
    }
}

/// What a picture shows, and how it is painted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The objects in reading order of their cells, none overlapping another, at most one in a cell.
    pub objects: Vec<SceneObject>,
    /// Background at the top left corner, sRGB.
    pub background: [u8; 3],
    /// How much brighter or darker the background gets towards the right and the lower edge.
    pub shading: [i8; 2],
    /// Largest change of a pixel by noise, in levels of 255.
    pub noise: u8,
    /// Seed of the noise.
    pub noise_seed: u64,
}

/// How scenes are drawn: the knobs of difficulty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SceneConfig {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Fewest objects.
    pub min_objects: u32,
    /// Most objects, at most 9 (one per cell).
    pub max_objects: u32,
    /// How many of [`Shape::ALL`] occur.
    pub shapes: usize,
    /// How many of [`Color::ALL`] occur.
    pub colors: usize,
    /// Smallest and largest side of a small object in pixels, both included.
    pub small_side: [u32; 2],
    /// Smallest and largest side of a big object in pixels, both included.
    pub big_side: [u32; 2],
    /// Free pixels between two boxes.
    pub gap: u32,
    /// Pixels that a centre keeps from the borders between cells, so that position words are clear.
    pub cell_margin: u32,
    /// Chance in percent that an object takes its shape or its colour from one that is already there: confusable
    /// objects make referring and adversarial questions hard.
    pub similar_percent: u32,
    /// How many times more often a popular combination (a third of them) is drawn than another; 1 is uniform.
    pub popular_weight: u32,
    /// Largest change of a pixel by noise, in levels of 255.
    pub noise: u8,
    /// Largest change of an object's colour, in levels of 255.
    pub color_jitter: u8,
}

impl Default for SceneConfig {
    fn default() -> Self {
        SceneConfig {
            width: 64,
            height: 64,
            min_objects: 1,
            max_objects: 4,
            shapes: Shape::ALL.len(),
            colors: Color::ALL.len(),
            small_side: [9, 11],
            big_side: [17, 21],
            gap: 2,
            cell_margin: 2,
            similar_percent: 50,
            popular_weight: 3,
            noise: 8,
            color_jitter: 12,
        }
    }
}

/// Why a scene cannot be drawn.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SceneError {
    /// A knob lies outside its range.
    #[error("scene.{knob} is {value}: it must be {expected}")]
    Knob {
        /// The key in the configuration.
        knob: &'static str,
        /// What it is.
        value: String,
        /// What it has to be.
        expected: String,
    },
    /// Objects of these sizes do not fit.
    #[error(
        "no room for {objects} objects with sides up to {side} px in {width} × {height} px: \
         lower scene.max_objects, scene.big_side or scene.gap, or enlarge the picture"
    )]
    NoRoom {
        /// How many were wanted.
        objects: u32,
        /// The largest side.
        side: u32,
        /// The picture's width.
        width: u32,
        /// The picture's height.
        height: u32,
    },
}

/// Placements tried for one object, and layouts for one scene, before giving up.
const ATTEMPTS: usize = 64;

impl SceneConfig {
    /// Scenes that a tiny vision tower can learn in an hour: at most three objects, none too small for its shape to show
    /// in patches of eight pixels.
    pub fn tiny() -> Self {
        Self { max_objects: 3, small_side: [12, 14], big_side: [20, 24], ..Self::default() }
    }

    /// The shapes that occur.
    pub fn shapes(&self) -> &'static [Shape] {
        Shape::ALL.get(..self.shapes).unwrap_or(&Shape::ALL)
    }

    /// The colours that occur.
    pub fn colors(&self) -> &'static [Color] {
        Color::ALL.get(..self.colors).unwrap_or(&Color::ALL)
    }

    /// Whether `combination` is one of the third that is drawn more often.
    ///
    /// Popular ones lie on diagonals of the colour × shape table, so no colour and no shape is popular as a whole.
    pub fn is_popular(&self, combination: Combination) -> bool {
        (combination.color as usize + combination.shape as usize).is_multiple_of(3)
    }

    /// Checks every knob.
    ///
    /// # Errors
    /// The first knob outside its range, with what it must be.
    pub fn validate(&self) -> Result<(), SceneError> {
        let check = |holds: bool, knob: &'static str, value: String, expected: &str| {
            if holds { Ok(()) } else { Err(SceneError::Knob { knob, value, expected: expected.to_owned() }) }
        };
        let range = |knob, [low, high]: [u32; 2]| {
            check(
                1 <= low && low <= high && high <= self.width.min(self.height),
                knob,
                format!("[{low}, {high}]"),
                "[low, high] with 1 ≤ low ≤ high ≤ the picture's side",
            )
        };
        check((16..=1024).contains(&self.width), "width", self.width.to_string(), "16 to 1024")?;
        check((16..=1024).contains(&self.height), "height", self.height.to_string(), "16 to 1024")?;
        check((1..=9).contains(&self.max_objects), "max_objects", self.max_objects.to_string(), "1 to 9")?;
        check(
            1 <= self.min_objects && self.min_objects <= self.max_objects,
            "min_objects",
            self.min_objects.to_string(),
            "1 to scene.max_objects",
        )?;
        check((1..=Shape::ALL.len()).contains(&self.shapes), "shapes", self.shapes.to_string(), "1 to 4")?;
        check((1..=Color::ALL.len()).contains(&self.colors), "colors", self.colors.to_string(), "1 to 6")?;
        range("small_side", self.small_side)?;
        range("big_side", self.big_side)?;
        check(
            self.small_side[1] < self.big_side[0],
            "big_side",
            format!("{:?}", self.big_side),
            "larger than scene.small_side, so that a size is clear",
        )?;
        check(
            8 * self.small_side[0] >= self.width.max(self.height),
            "small_side",
            format!("{:?}", self.small_side),
            "at least an eighth of the picture's longer side (four bins), so that a box written in location tokens \
             keeps an IoU over 0.5",
        )?;
        check(self.gap <= self.width, "gap", self.gap.to_string(), "at most the picture's width")?;
        check(self.similar_percent <= 100, "similar_percent", self.similar_percent.to_string(), "0 to 100")?;
        check(
            (1..=1000).contains(&self.popular_weight),
            "popular_weight",
            self.popular_weight.to_string(),
            "1 to 1000",
        )?;
        check(self.noise <= 64, "noise", self.noise.to_string(), "at most 64, or colours blur into each other")?;
        check(
            self.color_jitter <= 32,
            "color_jitter",
            self.color_jitter.to_string(),
            "at most 32, or colours blur into each other",
        )?;
        for [low, high] in [self.small_side, self.big_side] {
            for side in low..=high {
                for axis in [self.width, self.height] {
                    check(
                        (0..3).all(|cell| self.starts(axis, cell, side).is_some()),
                        "cell_margin",
                        self.cell_margin.to_string(),
                        "small enough that an object of every size has its centre in every cell of the 3 × 3 grid",
                    )?;
                }
            }
        }
        Ok(())
    }

    /// First and last left (or top) edge of an object of `side` whose centre lies in `cell` of an axis, keeping the margin.
    fn starts(&self, axis: u32, cell: u32, side: u32) -> Option<(u32, u32)> {
        // In sixths of a pixel the cell borders and the doubled centre are whole numbers.
        let (axis6, side3, margin6) = (2 * i64::from(axis), 3 * i64::from(side), 6 * i64::from(self.cell_margin));
        let cell = i64::from(cell);
        let last = i64::from(axis) - i64::from(side);
        let low = if cell == 0 { 0 } else { (axis6 * cell + margin6 - side3 + 5).div_euclid(6).max(0) };
        // One less: a centre on a border belongs to the next cell.
        let high = if cell == 2 { last } else { (axis6 * (cell + 1) - margin6 - side3 - 1).div_euclid(6).min(last) };
        (low <= high).then(|| u32::try_from(low).ok().zip(u32::try_from(high).ok())).flatten()
    }
}

impl Scene {
    /// Draws a scene.
    ///
    /// # Errors
    /// Where the objects do not fit; a configuration that [`SceneConfig::validate`] refuses may also end here.
    pub fn draw(config: &SceneConfig, rng: &mut ChaCha8Rng) -> Result<Scene, SceneError> {
        let count = between(rng, config.min_objects, config.max_objects);
        let mut objects = (0..ATTEMPTS).find_map(|_| draw_objects(config, rng, count)).ok_or(SceneError::NoRoom {
            objects: count,
            side: config.big_side[1],
            width: config.width,
            height: config.height,
        })?;
        objects.sort_by_key(|object| (object.cell, object.y, object.x));
        let gray = between(rng, 112, 144);
        let background = [0; 3].map(|_: u8| (gray + between(rng, 0, 16)).saturating_sub(8) as u8);
        let shading = [0; 2].map(|_: i8| (between(rng, 0, 32) as i32 - 16) as i8);
        Ok(Scene {
            width: config.width,
            height: config.height,
            objects,
            background,
            shading,
            noise: config.noise,
            noise_seed: rng.random(),
        })
    }
}

fn draw_objects(config: &SceneConfig, rng: &mut ChaCha8Rng, count: u32) -> Option<Vec<SceneObject>> {
    let mut objects: Vec<SceneObject> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let Combination { color, shape } = draw_combination(config, rng, &objects)?;
        let size = *pick(rng, &Size::ALL)?;
        let [low, high] = match size {
            Size::Small => config.small_side,
            Size::Big => config.big_side,
        };
        let side = between(rng, low, high);
        let rgb = color.rgb().map(|level| jitter(rng, level, config.color_jitter));
        let object = (0..ATTEMPTS).find_map(|_| {
            let cell = *pick(rng, &Cell::ALL)?;
            let (x_low, x_high) = config.starts(config.width, cell.column.into(), side)?;
            let (y_low, y_high) = config.starts(config.height, cell.row.into(), side)?;
            let (x, y) = (between(rng, x_low, x_high), between(rng, y_low, y_high));
            let object = SceneObject { shape, color, size, cell, x, y, side, rgb };
            let free = objects.iter().all(|other| other.cell != cell && !object.overlaps(other, config.gap));
            free.then_some(object)
        })?;
        objects.push(object);
    }
    Some(objects)
}

/// A combination by popularity; often the shape or the colour of an object that is already there.
fn draw_combination(config: &SceneConfig, rng: &mut ChaCha8Rng, present: &[SceneObject]) -> Option<Combination> {
    let mut candidates = Combination::all(config);
    if !present.is_empty() && between(rng, 1, 100) <= config.similar_percent {
        let other = pick(rng, present)?.combination();
        let same_shape = between(rng, 0, 1) == 0;
        candidates.retain(|c| if same_shape { c.shape == other.shape } else { c.color == other.color });
    }
    let weight = |c: &Combination| if config.is_popular(*c) { config.popular_weight } else { 1 };
    let total: u32 = candidates.iter().map(weight).sum();
    let mut ticket = between(rng, 1, total.max(1));
    candidates.into_iter().find(|c| {
        let weight = weight(c);
        let found = ticket <= weight;
        ticket = ticket.saturating_sub(weight);
        found
    })
}

fn jitter(rng: &mut ChaCha8Rng, level: u8, largest: u8) -> u8 {
    let change = between(rng, 0, 2 * u32::from(largest)) as i32 - i32::from(largest);
    (i32::from(level) + change).clamp(0, 255) as u8
}

/// A number from `low` to `high`, both included; `low` where the range is empty.
///
/// Always drawn as a u32: a usize draw could differ between 32-bit wasm and 64-bit machines.
pub(super) fn between(rng: &mut ChaCha8Rng, low: u32, high: u32) -> u32 {
    if low >= high { low } else { rng.random_range(low..=high) }
}

/// One of `items`, each as likely.
pub(super) fn pick<'a, T>(rng: &mut ChaCha8Rng, items: &'a [T]) -> Option<&'a T> {
    let last = u32::try_from(items.len()).ok()?.checked_sub(1)?;
    items.get(between(rng, 0, last) as usize)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn an_object_lies_in_the_cell_that_holds_its_centre_even_where_borders_are_whole_pixels() {
        // 54 / 3 = 18: without a margin a centre may lie on the border, which belongs to the next cell.
        let config = SceneConfig { width: 54, cell_margin: 0, ..SceneConfig::default() };
        config.validate().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut on_border = 0;
        for _ in 0..500 {
            for object in Scene::draw(&config, &mut rng).unwrap().objects {
                let (x, y) = object.doubled_center();
                assert_eq!(u32::from(object.cell.column), 3 * x / (2 * 54));
                assert_eq!(u32::from(object.cell.row), 3 * y / (2 * 64));
                on_border += usize::from(x == 36 || x == 72);
            }
        }
        assert!(on_border > 0);
    }

    #[test]
    fn centres_keep_their_margin_from_the_borders_between_cells() {
        let config = SceneConfig::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            for object in Scene::draw(&config, &mut rng).unwrap().objects {
                let (x, y) = object.doubled_center();
                for doubled in [x, y] {
                    for border in [64.0 / 3.0, 128.0 / 3.0] {
                        assert!((f64::from(doubled) / 2.0 - border).abs() >= 2.0, "{object:?}");
                    }
                }
            }
        }
    }
}

//! Writes a contact sheet of generated pictures, `<name>.png`, and their questions with answers, `<name>.txt`.
//!
//! ```text
//! cargo run -p hydra-shared --no-default-features --example contact_sheet -- <name> [split] [seed] [pictures]
//! ```

use std::error::Error;
use std::fmt::Write as _;

use hydra_shared::tasks::{SamplesPerPicture, Split, TaskConfig, generate};
use image::RgbImage;
use image::imageops::{FilterType, overlay, resize};

const COLUMNS: usize = 6;
/// Enlargement of a picture on the sheet.
const SCALE: u32 = 3;
const MARGIN: u32 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("give a file name without extension")?;
    let split = arguments.next().unwrap_or_else(|| "test".into());
    let split = Split::ALL.into_iter().find(|s| s.name() == split).ok_or("no such split")?;
    let seed = arguments.next().map_or(Ok(0), |seed| seed.parse())?;
    let pictures = arguments.next().map_or(Ok(24), |pictures| pictures.parse())?;

    let samples_per_picture = SamplesPerPicture { caption: 1, boxed_caption: 1, ..SamplesPerPicture::default() };
    let set = generate(&TaskConfig { samples_per_picture, ..TaskConfig::default() }, split, seed, pictures)?;
    let Some(first) = set.picture(0) else { return Err("at least one picture, please".into()) };

    let (width, height) = (first.width * SCALE + MARGIN, first.height * SCALE + MARGIN);
    let rows = pictures.div_ceil(COLUMNS) as u32;
    let mut sheet = RgbImage::from_pixel(COLUMNS as u32 * width + MARGIN, rows * height + MARGIN, [255; 3].into());
    let mut text = String::new();
    for (index, picture) in set.pictures().into_iter().enumerate() {
        let picture = RgbImage::from_raw(picture.width, picture.height, picture.rgb).ok_or("not an RGB picture")?;
        let large = resize(&picture, picture.width() * SCALE, picture.height() * SCALE, FilterType::Nearest);
        let (column, row) = ((index % COLUMNS) as u32, (index / COLUMNS) as u32);
        overlay(&mut sheet, &large, i64::from(MARGIN + column * width), i64::from(MARGIN + row * height));
        writeln!(text, "picture {index} (row {}, column {})", row + 1, column + 1)?;
        for sample in set.samples.iter().filter(|sample| sample.picture == index) {
            writeln!(text, "  {:14} {} → {}", sample.kind.name(), sample.question, sample.answer)?;
        }
    }
    sheet.save(format!("{name}.png"))?;
    std::fs::write(format!("{name}.txt"), text)?;
    Ok(())
}

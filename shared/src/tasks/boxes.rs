//! Boxes as the text that the tiny model reads and writes.
//!
//! A box is written as four location tokens x1 y1 x2 y2 with nothing between them:
//! `<loc03><loc10><loc07><loc15>`. Each axis has [`LOCATION_BINS`] bins of equal width. x1 and y1 name the first bin
//! that the box covers and stand for that bin's near edge; x2 and y2 name the last bin and stand for its far edge. So
//! every text whose corners are in order is a box of at least one bin, and no text is an empty box.

use crate::benchmarks::BoundingBox;

/// Location tokens per axis; a bin is 1/32 of the picture's side.
pub const LOCATION_BINS: u32 = 32;

impl BoundingBox {
    /// The four location tokens of this box in a picture of `width` × `height` pixels.
    ///
    /// Each edge goes to the nearest bin edge, a tie outwards, so an edge moves by at most half a bin. What lies outside
    /// the picture is cut off, and a box thinner than a bin gets one whole bin.
    pub fn to_location_tokens(&self, width: u32, height: u32) -> String {
        let (x1, x2) = bins(self.x1, self.x2, width);
        let (y1, y2) = bins(self.y1, self.y2, height);
        [x1, y1, x2, y2].map(location_token).concat()
    }

    /// The box that the first four location tokens in a row in `text` stand for, in a picture of `width` × `height` pixels.
    ///
    /// White space between the tokens is allowed, since tokenizers differ in whether they decode one. `None` where there
    /// are no four tokens in a row or where the corners are out of order.
    pub fn from_location_tokens(text: &str, width: u32, height: u32) -> Option<BoundingBox> {
        let [x1, y1, x2, y2] = first_four_bins(text)?;
        if x2 < x1 || y2 < y1 {
            return None;
        }
        let edge = |bin: u32, side: u32| bin as f32 * side as f32 / LOCATION_BINS as f32;
        Some(BoundingBox {
            x1: edge(x1, width),
            y1: edge(y1, height),
            x2: edge(x2 + 1, width),
            y2: edge(y2 + 1, height),
        })
    }
}

/// The token of one bin, `<loc00>` to `<loc31>`; a higher number gives the last bin.
pub fn location_token(bin: u32) -> String {
    format!("<loc{:02}>", bin.min(LOCATION_BINS - 1))
}

/// All location tokens in the order of their bins: what a tokenizer has to know as special tokens.
pub fn location_tokens() -> Vec<String> {
    (0..LOCATION_BINS).map(location_token).collect()
}

/// First and last bin of the span from `low` to `high` on an axis of `side` pixels.
fn bins(low: f32, high: f32, side: u32) -> (u32, u32) {
    let scale = LOCATION_BINS as f32 / side.max(1) as f32;
    // `as u32` saturates, and turns NaN into 0.
    let first = ((low * scale - 0.5).ceil() as u32).min(LOCATION_BINS - 1);
    let end = ((high * scale + 0.5).floor() as u32).min(LOCATION_BINS);
    (first, end.saturating_sub(1).max(first))
}

fn first_four_bins(text: &str) -> Option<[u32; 4]> {
    let mut run = Vec::with_capacity(4);
    let mut rest = text;
    while let Some(start) = rest.find("<loc") {
        let (before, tail) = rest.split_at(start);
        if !before.trim().is_empty() {
            run.clear();
        }
        match leading_token(tail) {
            Some((bin, after)) => {
                run.push(bin);
                rest = after;
            }
            None => {
                run.clear();
                rest = tail.get(4..)?;
            }
        }
        if let Ok(found) = <[u32; 4]>::try_from(run.as_slice()) {
            return Some(found);
        }
    }
    None
}

/// The bin of the location token that `text` starts with, and what follows it.
fn leading_token(text: &str) -> Option<(u32, &str)> {
    let digits = text.strip_prefix("<loc")?;
    let (number, rest) = digits.split_once('>')?;
    if number.len() != 2 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse().ok().filter(|bin| *bin < LOCATION_BINS).map(|bin| (bin, rest))
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn square(x: u32, y: u32, side: u32) -> BoundingBox {
        BoundingBox { x1: x as f32, y1: y as f32, x2: (x + side) as f32, y2: (y + side) as f32 }
    }

    #[test]
    fn a_box_on_bin_edges_is_written_and_read_exactly() {
        let whole = BoundingBox { x1: 0.0, y1: 0.0, x2: 64.0, y2: 64.0 };
        assert_eq!(whole.to_location_tokens(64, 64), "<loc00><loc00><loc31><loc31>");
        let inner = BoundingBox { x1: 6.0, y1: 20.0, x2: 16.0, y2: 32.0 };
        assert_eq!(inner.to_location_tokens(64, 64), "<loc03><loc10><loc07><loc15>");
        assert_eq!(BoundingBox::from_location_tokens("<loc03><loc10><loc07><loc15>", 64, 64), Some(inner));
    }

    #[test]
    fn an_edge_between_bin_edges_moves_outwards() {
        let odd = BoundingBox { x1: 7.0, y1: 21.0, x2: 15.0, y2: 31.0 };
        assert_eq!(odd.to_location_tokens(64, 64), "<loc03><loc10><loc07><loc15>");
    }

    #[test]
    fn every_possible_object_box_keeps_an_iou_of_two_thirds_through_its_tokens() {
        let mut worst = 1.0_f32;
        for side in 9..=21 {
            for x in 0..=64 - side {
                for y in 0..=64 - side {
                    let exact = square(x, y, side);
                    let read = BoundingBox::from_location_tokens(&exact.to_location_tokens(64, 64), 64, 64).unwrap();
                    assert!(
                        read.x1 <= exact.x1 && read.y1 <= exact.y1 && read.x2 >= exact.x2 && read.y2 >= exact.y2,
                        "{exact:?} {read:?}"
                    );
                    worst = worst.min(exact.iou(&read));
                }
            }
        }
        // 10 px from odd to odd in both axes become 12 px; the edges of 9 px are never both odd.
        assert_eq!(worst, 100.0 / 144.0);
    }

    #[test]
    fn text_without_four_ordered_tokens_in_a_row_is_no_box() {
        for text in [
            "",
            "yes",
            "<loc01><loc01><loc02>",
            "<loc05><loc01><loc02><loc03>",
            "<loc01><loc05><loc02><loc03>",
            "<loc01><loc01> and <loc02><loc03>",
            "<loc01><loc01><loc02><loc32>",
            "<loc1><loc1><loc2><loc3>",
            "<loc<loc",
            "<locé1><loc01><loc01><loc01>",
            "<loc01><loc<loc01><loc02><loc03>",
        ] {
            assert_eq!(BoundingBox::from_location_tokens(text, 64, 64), None, "{text}");
        }
    }

    #[test]
    fn the_first_four_tokens_in_a_row_are_read_whatever_surrounds_them() {
        let expected = Some(BoundingBox { x1: 2.0, y1: 2.0, x2: 6.0, y2: 8.0 });
        for text in [
            "<loc01><loc01><loc02><loc03>",
            " <loc01> <loc01> <loc02> <loc03> .",
            "at <loc01><loc01><loc02><loc03><loc09>",
            "<loc07>, no: <loc01><loc01><loc02><loc03>",
        ] {
            assert_eq!(BoundingBox::from_location_tokens(text, 64, 64), expected, "{text}");
        }
    }

    /// Text at random, or pieces of location tokens at random, which are boxes often enough to be worth reading.
    fn any_text() -> impl Strategy<Value = String> {
        let token = (0_u32..36).prop_map(|bin| format!("<loc{bin:02}>"));
        let piece = prop_oneof![6 => token, 1 => "[ \n]{1,2}", 1 => "<loc|<|[0-9]{1,2}|>", 1 => ".{0,2}"];
        prop_oneof![".{0,40}", prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())]
    }

    /// The first four tokens with nothing but white space between them, tried from every letter of the text.
    fn first_four_by_hand(text: &str) -> Option<[u32; 4]> {
        let token = |text: &str| {
            let bin = (0..LOCATION_BINS).find(|bin| text.starts_with(&location_token(*bin)))?;
            Some((bin, text[location_token(bin).len()..].to_owned()))
        };
        text.char_indices().find_map(|(start, _)| {
            let mut rest = text[start..].to_owned();
            let mut bins = [0; 4];
            for (index, bin) in bins.iter_mut().enumerate() {
                let from = if index == 0 { &rest } else { rest.trim_start() };
                (*bin, rest) = token(from)?;
            }
            Some(bins)
        })
    }

    proptest! {
        #[test]
        fn any_text_written_for_any_box_is_a_box_inside_the_picture(
            x1 in -10.0_f32..200.0, y1 in -10.0_f32..200.0, w in 0.0_f32..200.0, h in 0.0_f32..200.0,
            width in 1_u32..300, height in 1_u32..300,
        ) {
            let text = BoundingBox { x1, y1, x2: x1 + w, y2: y1 + h }.to_location_tokens(width, height);
            let read = BoundingBox::from_location_tokens(&text, width, height).unwrap();
            prop_assert!(read.x1 >= 0.0 && read.y1 >= 0.0 && read.area() > 0.0);
            prop_assert!(read.x2 <= width as f32 && read.y2 <= height as f32);
            prop_assert_eq!(read.to_location_tokens(width, height), text);
        }

        #[test]
        fn any_text_is_read_as_its_first_four_tokens_in_a_row_or_as_no_box(text in any_text()) {
            let expected = first_four_by_hand(&text).filter(|[x1, y1, x2, y2]| x1 <= x2 && y1 <= y2);
            let read = BoundingBox::from_location_tokens(&text, 64, 64);
            let written = read.map(|read| read.to_location_tokens(64, 64));
            prop_assert_eq!(written, expected.map(|bins| bins.map(location_token).concat()));
        }
    }
}

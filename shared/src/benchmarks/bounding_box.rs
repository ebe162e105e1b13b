//! Boxes in pictures, and how far two of them agree.

use serde::{Deserialize, Serialize};

/// An axis-aligned box in pixels, half-open: x1 ≤ x < x2 and y1 ≤ y < y2, the origin at the top left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f32,
    /// Top edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Bottom edge.
    pub y2: f32,
}

impl BoundingBox {
    /// Area in square pixels; 0 where the corners are out of order.
    pub fn area(&self) -> f32 {
        (self.x2 - self.x1).max(0.0) * (self.y2 - self.y1).max(0.0)
    }

    /// Intersection over union, 0 to 1; 0 where both boxes are empty.
    pub fn iou(&self, other: &BoundingBox) -> f32 {
        let overlap = BoundingBox {
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
            x2: self.x2.min(other.x2),
            y2: self.y2.min(other.y2),
        }
        .area();
        let union = self.area() + other.area() - overlap;
        if union > 0.0 { overlap / union } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(x: u32, y: u32, side: u32) -> BoundingBox {
        BoundingBox { x1: x as f32, y1: y as f32, x2: (x + side) as f32, y2: (y + side) as f32 }
    }

    #[test]
    fn iou_is_exact_on_known_boxes() {
        assert_eq!(square(0, 0, 10).iou(&square(0, 0, 10)), 1.0);
        assert_eq!(square(0, 0, 10).iou(&square(5, 0, 10)), 50.0 / 150.0);
        assert_eq!(square(0, 0, 10).iou(&square(10, 0, 10)), 0.0);
        assert_eq!(square(0, 0, 0).iou(&square(0, 0, 0)), 0.0);
    }
}

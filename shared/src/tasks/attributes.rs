//! What can be said of an object: shape, colour, size class and place, with their words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an object's outline is. Each fills its box: the circle touches all four edges, the triangle stands on the lower
/// one and points to the middle of the upper one, the bars of the cross are a third of its side wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A disc.
    Circle,
    /// A filled square.
    Square,
    /// A filled isosceles triangle.
    Triangle,
    /// A plus sign.
    Cross,
}

impl Shape {
    /// All shapes; a configuration with fewer uses the first ones.
    pub const ALL: [Shape; 4] = [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Cross];

    /// The noun.
    pub fn word(self) -> &'static str {
        match self {
            Shape::Circle => "circle",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Cross => "cross",
        }
    }

    /// The noun's plural.
    pub fn plural(self) -> &'static str {
        match self {
            Shape::Circle => "circles",
            Shape::Square => "squares",
            Shape::Triangle => "triangles",
            Shape::Cross => "crosses",
        }
    }
}

/// An object's colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// 220, 40, 40.
    Red,
    /// 40, 165, 60.
    Green,
    /// 45, 80, 225.
    Blue,
    /// 240, 225, 50.
    Yellow,
    /// 150, 45, 185.
    Purple,
    /// 245, 135, 25.
    Orange,
}

impl Color {
    /// All colours; a configuration with fewer uses the first ones.
    pub const ALL: [Color; 6] = [Color::Red, Color::Green, Color::Blue, Color::Yellow, Color::Purple, Color::Orange];

    /// The adjective.
    pub fn word(self) -> &'static str {
        match self {
            Color::Red => "red",
            Color::Green => "green",
            Color::Blue => "blue",
            Color::Yellow => "yellow",
            Color::Purple => "purple",
            Color::Orange => "orange",
        }
    }

    /// The colour before jitter, sRGB.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Color::Red => [220, 40, 40],
            Color::Green => [40, 165, 60],
            Color::Blue => [45, 80, 225],
            Color::Yellow => [240, 225, 50],
            Color::Purple => [150, 45, 185],
            Color::Orange => [245, 135, 25],
        }
    }
}

/// An object's size class; [`SceneConfig`](super::SceneConfig) says which sides belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 9 to 11 px by default.
    Small,
    /// 17 to 21 px by default.
    Big,
}

impl Size {
    /// Both sizes.
    pub const ALL: [Size; 2] = [Size::Small, Size::Big];

    /// The adjective.
    pub fn word(self) -> &'static str {
        match self {
            Size::Small => "small",
            Size::Big => "big",
        }
    }
}

/// A cell of the 3 × 3 grid that position words refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// 0 top, 1 middle, 2 bottom.
    pub row: u8,
    /// 0 left, 1 middle, 2 right.
    pub column: u8,
}

impl Cell {
    /// The nine cells in reading order.
    pub const ALL: [Cell; 9] = [
        Cell { row: 0, column: 0 },
        Cell { row: 0, column: 1 },
        Cell { row: 0, column: 2 },
        Cell { row: 1, column: 0 },
        Cell { row: 1, column: 1 },
        Cell { row: 1, column: 2 },
        Cell { row: 2, column: 0 },
        Cell { row: 2, column: 1 },
        Cell { row: 2, column: 2 },
    ];

    /// The cell's name, as an answer.
    pub fn name(self) -> &'static str {
        match (self.row, self.column) {
            (0, 0) => "top left",
            (0, 1) => "top",
            (0, _) => "top right",
            (1, 0) => "left",
            (1, 1) => "center",
            (1, _) => "right",
            (_, 0) => "bottom left",
            (_, 1) => "bottom",
            (_, _) => "bottom right",
        }
    }

    /// The name with its preposition: "at the top left", "on the right", "in the center".
    pub fn phrase(self) -> &'static str {
        match (self.row, self.column) {
            (0, 0) => "at the top left",
            (0, 1) => "at the top",
            (0, _) => "at the top right",
            (1, 0) => "on the left",
            (1, 1) => "in the center",
            (1, _) => "on the right",
            (_, 0) => "at the bottom left",
            (_, 1) => "at the bottom",
            (_, _) => "at the bottom right",
        }
    }

    /// Whether this cell's name could also be said of an object in `other`: one at the top left is also "at the top".
    ///
    /// "Top" says the row alone and "left" the column alone; the corners and the center say both.
    pub fn name_covers(self, other: Cell) -> bool {
        let corner_or_center = (self.row == 1) == (self.column == 1);
        if corner_or_center {
            self == other
        } else if self.row == 1 {
            self.column == other.column
        } else {
            self.row == other.row
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cells_name_covers_what_can_loosely_be_called_so() {
        let covered = |row, column| {
            let name = Cell { row, column };
            Cell::ALL.into_iter().filter(|cell| name.name_covers(*cell)).map(Cell::name).collect::<Vec<_>>()
        };
        assert_eq!(covered(0, 1), ["top left", "top", "top right"]);
        assert_eq!(covered(1, 0), ["top left", "left", "bottom left"]);
        assert_eq!(covered(2, 2), ["bottom right"]);
        assert_eq!(covered(1, 1), ["center"]);
    }
}

//! Drawing: axes, lines, markers and text, as SVG.
//!
//! plotters knows neither CSS nor fractions of a pixel. So colours go through it as stand-ins that become CSS
//! variables afterwards, and the page chooses them for light, dark and paper; and all is drawn [`SCALE`] times
//! as large as it is shown.

use std::cell::RefCell;

use anyhow::Result;
use minijinja::HtmlEscape;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::text::{number, strength};

pub const SCALE: i32 = 4;
/// Colours that the page has for methods.
pub const COLOURS: usize = 8;
/// Width and height of a chart, as shown.
const CHART: (i32, i32) = (340, 290);
/// Size of text. plotters takes the height of a line, and writes it divided by 1.24.
const FONT: i32 = (13.0 * 1.24 * SCALE as f64) as i32;

/// What a character takes of a line at most, in pixels as shown; digits take less.
const CHARACTER: f64 = 8.0;

/// How near the pointer has to be to a point to have its values said.
const HINT: i32 = 6 * SCALE;

/// In the drawing, [`SCALE`] a pixel as shown.
pub type Pixel = (i32, i32);

/// An axis.
#[derive(Clone)]
pub struct Axis {
    pub name: String,
    pub log: bool,
    /// The ends, as decadic logarithms where it is logarithmic.
    low: f64,
    high: f64,
    /// Values and what is written there.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis over all values that it can show, if there are any.
    pub fn over(name: &str, log: bool, values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let placed = values.into_iter().filter_map(|v| place(log, v));
        let (low, high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let span = high - low;
        if !span.is_finite() {
            return None;
        }
        let pad = if span > 0.0 { span * 0.08 } else { high.abs().max(0.1) * 0.2 };
        let (low, high) = (low - pad, high + pad);
        let ticks = if log { log_ticks(low, high) } else { linear_ticks(low, high) };
        Some(Self { name: name.into(), log, low, high, ticks })
    }

    /// Ticks at these values in place of round ones, as far as there is room.
    pub fn with_ticks_at(mut self, values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let longest = values.iter().map(|v| plain(*v).len()).max().unwrap_or(0);
        let room = (self.high - self.low) * if longest > SHORT { 0.16 } else { 0.1 };
        values.dedup_by(|next, kept| *next - *kept < room);
        self.ticks = values.into_iter().map(|v| (v, plain(v))).collect();
        self
    }

    /// The same with as many ticks as there is room for side by side along so many pixels, as shown, none of which reaches further
    /// than `beyond` the right end.
    fn beside_each_other(mut self, pixels: i32, beyond: i32) -> Self {
        let width = |text: &str| text.chars().count() as f64 * CHARACTER;
        let taken: f64 = self.ticks.iter().map(|tick| width(&tick.1) + 2.0 * CHARACTER).sum();
        let every = (taken / f64::from(pixels)).ceil().max(1.0) as usize;
        let (low, span) = (self.low, self.high - self.low);
        let log = self.log;
        let is_inside = |tick: &(f64, String)| {
            let right =
                place(log, tick.0).map_or(0.0, |at| (at - low) / span) * f64::from(pixels) + width(&tick.1) / 2.0;
            right <= f64::from(pixels + beyond)
        };
        self.ticks = self.ticks.into_iter().step_by(every).filter(is_inside).collect();
        self
    }

    /// How many pixels, as shown, its ticks take where they stand below each other.
    fn width(&self) -> i32 {
        let longest = self.ticks.iter().map(|tick| tick.1.chars().count()).max().unwrap_or(0);
        (longest as f64 * CHARACTER).ceil() as i32
    }

    /// Free room at its ends, as fractions of the whole.
    pub fn with_room(mut self, before: f64, after: f64) -> Self {
        let whole = (self.high - self.low) / (1.0 - before - after).max(0.1);
        (self.low, self.high) = (self.low - whole * before, self.high + whole * after);
        self
    }
}

/// Labels of so many characters stand beside each other at a tenth of the axis.
pub const SHORT: usize = 4;

/// A round number without needless zeros.
fn plain(x: f64) -> String {
    strength("unstructured", x)
}

/// Where a value is on an axis; nowhere if it cannot be shown.
fn place(log: bool, value: f64) -> Option<f64> {
    Some(if log { value.log10() } else { value }).filter(|v| v.is_finite())
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let fraction = (place(self.log, *value).unwrap_or(self.low) - self.low) / (self.high - self.low);
        start + (f64::from(end - start) * fraction).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // plotters asks a second time for lines between the ticks.
        let lines_between = hint.weight().allow_light_points();
        if lines_between { vec![] } else { self.ticks.iter().map(|tick| tick.0).collect() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        if self.log { 10f64.powf(self.low)..10f64.powf(self.high) } else { self.low..self.high }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|tick| tick.0 == *value).map_or(String::new(), |tick| tick.1.clone())
    }
}

/// Three to seven round numbers.
fn linear_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let magnitude = 10f64.powf(((high - low) / 7.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * magnitude).into_iter().find(|s| (high - low) / s <= 7.0);
    let step = step.unwrap_or(high - low);
    let digits = (-(step * 1.001).log10().floor()).clamp(0.0, 12.0) as usize;
    let ticks = (low / step).ceil() as i64..=(high / step).floor() as i64;
    let is_small = low.abs().max(high.abs()) < 1e-3;
    let written = |v: f64| match v {
        0.0 if is_small => "0".to_owned(),
        v if is_small => {
            let digits = (digits as f64 + (v.abs() * 1.001).log10().floor()).max(0.0) as usize;
            format!("{v:.digits$e}")
        }
        v => format!("{v:.digits$}"),
    };
    ticks.map(|i| i as f64 * step).map(|v| (v, written(v))).collect()
}

/// Powers of ten; where those are few, multiples of them too.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let exponents = low.floor() as i32..=high.ceil() as i32;
    let with = |factors: &[f64]| -> Vec<f64> {
        let all = exponents.clone().flat_map(|e| factors.iter().map(move |f| f * 10f64.powi(e)));
        all.filter(|v| (low..=high).contains(&v.log10())).collect()
    };
    let fine = [with(&[1.0, 2.0, 5.0]), with(&[1.0, 3.0])].into_iter().find(|ticks| ticks.len() <= 6);
    let values = fine.unwrap_or_else(|| with(&[1.0]));
    if values.len() < 2 {
        return linear_ticks(10f64.powf(low), 10f64.powf(high));
    }
    let every = values.len().div_ceil(7);
    values
        .into_iter()
        .step_by(every)
        .map(|v| (v, if (1e-4..1e6).contains(&v) { plain(v) } else { number(v) }))
        .collect()
}

/// A colour by what it is for.
#[derive(Clone, Copy)]
pub enum Ink {
    Text,
    Faint,
    Grid,
    Paper,
    Method(usize),
}

impl Ink {
    fn all() -> impl Iterator<Item = Self> {
        [Self::Text, Self::Faint, Self::Grid, Self::Paper].into_iter().chain((0..COLOURS).map(Self::Method))
    }

    fn stand_in(self) -> RGBColor {
        match self {
            Self::Text => RGBColor(1, 0, 0),
            Self::Faint => RGBColor(1, 0, 1),
            Self::Grid => RGBColor(1, 0, 2),
            Self::Paper => RGBColor(1, 0, 3),
            Self::Method(i) => RGBColor(2, 0, i as u8),
        }
    }

    fn variable(self) -> String {
        match self {
            Self::Text => "var(--text)".into(),
            Self::Faint => "var(--faint)".into(),
            Self::Grid => "var(--grid)".into(),
            Self::Paper => "var(--paper)".into(),
            Self::Method(i) => format!("var(--method-{i})"),
        }
    }
}

/// An SVG document of that size as shown, which says what it is.
pub fn svg(size: (i32, i32), label: &str, paint: impl FnOnce(&Pen) -> Result<()>) -> Result<String> {
    let (width, height) = ((size.0 * SCALE) as u32, (size.1 * SCALE) as u32);
    let mut drawn = String::new();
    let hints = RefCell::default();
    {
        let root = SVGBackend::with_string(&mut drawn, (width, height)).into_drawing_area();
        let pen = Pen { root, hints: &hints };
        paint(&pen)?;
        pen.root.present()?;
    }
    // In text, plotters has escaped the quotes, so that these are colours.
    for ink in Ink::all() {
        let RGBColor(r, g, b) = ink.stand_in();
        drawn = drawn.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"{}\"", ink.variable()));
    }
    let label = HtmlEscape(label);
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    // Above all that is drawn, as plotters has no elements within others.
    let body = body.replace("</svg>", &(hints.into_inner() + "</svg>"));
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"{label}\"><title>{label}</title>{body}"
    ))
}

/// A chart with its axes; `margin` is what to leave free on the right.
pub fn chart(label: &str, x: &Axis, y: &Axis, margin: i32, paint: impl FnOnce(&Frame) -> Result<()>) -> Result<String> {
    // Besides ticks, their short lines and, where it has one, the axis' name.
    let left = y.width().max(40) + if y.name.is_empty() { 8 } else { 26 };
    let x = x.clone().beside_each_other(CHART.0 - left - 6 - margin, 6 + margin);
    svg(CHART, label, |pen| {
        let text = |ink: Ink| ("sans-serif", FONT).into_font().color(&ink.stand_in());
        let mut chart = ChartBuilder::on(&pen.root)
            .margin_top(6 * SCALE)
            .margin_right((6 + margin) * SCALE)
            .x_label_area_size(40 * SCALE)
            .y_label_area_size(left * SCALE)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(Ink::Grid.stand_in().stroke_width(SCALE as u32))
            .axis_style(Ink::Faint.stand_in().stroke_width(SCALE as u32))
            .label_style(text(Ink::Text))
            .axis_desc_style(text(Ink::Text))
            .x_desc(&x.name)
            .y_desc(&y.name)
            .draw()?;
        let (across, down) = chart.plotting_area().get_pixel_range();
        let (across, down) = ((across.start, across.end), (down.start, down.end));
        paint(&Frame { pen: pen.clone(), x: x.clone(), y: y.clone(), across, down })
    })
}

/// The inside of a chart.
pub struct Frame<'a> {
    pub pen: Pen<'a>,
    x: Axis,
    y: Axis,
    /// Left and right end.
    pub across: (i32, i32),
    /// Upper and lower end.
    pub down: (i32, i32),
}

impl Frame<'_> {
    /// Where a value of the horizontal axis is.
    pub fn x_at(&self, x: f64) -> Option<i32> {
        place(self.x.log, x).map(|_| self.x.map(&x, self.across))
    }

    /// Where a value of the vertical axis is.
    pub fn y_at(&self, y: f64) -> Option<i32> {
        place(self.y.log, y).map(|_| self.y.map(&y, (self.down.1, self.down.0)))
    }

    pub fn at(&self, x: f64, y: f64) -> Option<Pixel> {
        self.x_at(x).zip(self.y_at(y))
    }
}

/// What is drawn with.
#[derive(Clone)]
pub struct Pen<'a> {
    root: DrawingArea<SVGBackend<'a>, Shift>,
    /// Elements that say something where the pointer rests on them.
    hints: &'a RefCell<String>,
}

impl Pen<'_> {
    /// A line, with lengths of dash and gap where it is dashed.
    pub fn line(&self, path: &[Pixel], ink: Ink, dash: Option<(i32, i32)>) -> Result<()> {
        let style = ink.stand_in().stroke_width(6);
        match dash {
            _ if path.len() < 2 => {}
            None => self.root.draw(&PathElement::new(path.to_vec(), style))?,
            Some((dash, gap)) => {
                self.root.draw(&DashedPathElement::new(path.to_vec(), dash * SCALE, gap * SCALE, style))?;
            }
        }
        Ok(())
    }

    /// A marker with that outline around its middle, or a circle where there is none.
    pub fn mark(&self, middle: Pixel, outline: &[Pixel], ink: Ink, hollow: bool) -> Result<()> {
        let (fill, edge) = (if hollow { Ink::Paper } else { ink }.stand_in(), ink.stand_in().stroke_width(6));
        if outline.is_empty() {
            self.root.draw(&Circle::new(middle, 14, fill.filled()))?;
            self.root.draw(&Circle::new(middle, 14, edge))?;
        } else {
            let path: Vec<Pixel> = outline.iter().map(|(x, y)| (middle.0 + x, middle.1 + y)).collect();
            self.root.draw(&Polygon::new(path.clone(), fill))?;
            self.root.draw(&PathElement::new(path, edge))?;
        }
        Ok(())
    }

    /// What a browser says where the pointer rests around a point.
    pub fn hint(&self, at: Pixel, text: &str) {
        self.hint_along(at, at.0, text);
    }

    /// The same, along a horizontal line.
    pub fn hint_along(&self, (left, y): Pixel, right: i32, text: &str) {
        let (x, y, width, height) = (left - HINT, y - HINT, right - left + 2 * HINT, 2 * HINT);
        let title = HtmlEscape(text);
        *self.hints.borrow_mut() += &format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"transparent\">\
             <title>{title}</title></rect>"
        );
    }

    /// A translucent area.
    pub fn band(&self, corner: Pixel, opposite: Pixel, ink: Ink) -> Result<()> {
        Ok(self.root.draw(&Rectangle::new([corner, opposite], ink.stand_in().mix(0.15).filled()))?)
    }

    /// Text below `at`.
    pub fn text(&self, text: &str, at: Pixel, align: HPos) -> Result<()> {
        let style = ("sans-serif", FONT).into_font().color(&Ink::Text.stand_in()).pos(Pos::new(align, VPos::Top));
        Ok(self.root.draw(&Text::new(text.to_owned(), at, style))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(log: bool, values: [f64; 2]) -> Vec<String> {
        Axis::over("", log, values).unwrap().ticks.into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(false, [0.0, 0.52]), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(ticks(false, [3.1, 7.9]), ["3", "4", "5", "6", "7", "8"]);
        assert_eq!(ticks(true, [12.0, 900.0]), ["10", "30", "100", "300", "1000"]);
        assert_eq!(ticks(true, [1.0, 1e12]).len(), 7);
        assert_eq!(ticks(true, [31.0, 39.0]), ["32", "34", "36", "38"]);
    }

    #[test]
    fn small_numbers_are_short_and_no_label_covers_another() {
        assert_eq!(ticks(false, [0.0, 4.1e-5]), ["0", "1e-5", "2e-5", "3e-5", "4e-5"]);
        assert_eq!(ticks(false, [1.0e-4, 1.4e-4]), ["1.0e-4", "1.1e-4", "1.2e-4", "1.3e-4", "1.4e-4"]);
        assert_eq!(ticks(false, [0.0, 0.004]), ["0.000", "0.001", "0.002", "0.003", "0.004"]);
        for values in [[0.0, 0.00052], [0.30001, 0.30006], [600.8, 601.6], [0.0, 1.0], [12_300.0, 12_900.0]] {
            let axis = Axis::over("", false, values).unwrap().beside_each_other(260, 6);
            let mut free = f64::NEG_INFINITY;
            for (value, text) in &axis.ticks {
                let (middle, half) = (f64::from(axis.map(value, (0, 260))), text.len() as f64 * 3.6);
                assert!(middle - half > free && middle + half <= 266.0, "{text} of {:?}", axis.ticks);
                free = middle + half;
            }
            assert!(axis.ticks.len() >= 2, "{:?}", axis.ticks);
        }
    }

    #[test]
    fn an_axis_shows_only_what_it_can() {
        assert!(Axis::over("", true, [0.0, -1.0, f64::INFINITY]).is_none());
        let axis = Axis::over("", true, [0.0, 10.0, 1000.0]).unwrap().with_room(0.0, 0.5);
        assert_eq!(axis.map(&10.0, (0, 1000)), 34);
        assert_eq!(axis.map(&1000.0, (0, 1000)), 466);
    }

    #[test]
    fn one_value_has_an_axis_too() {
        assert!(!ticks(false, [0.0, 0.0]).is_empty());
        assert!(!ticks(true, [50.0, 50.0]).is_empty());
    }
}

//! A layered drawing of a graph without circles.
//!
//! In: sizes of boxes, and edges. Out: where each box stands and how each edge runs, left to right.
//! The way is Sugiyama's: a layer for each box (its longest path from a source), places held free
//! for edges that cross a layer, an order by the mean of neighbours, heights by the same.
//! Invariant: pure; the same graph gives the same drawing.

/// Between two layers.
const LAYER_GAP: f64 = 72.0;

/// Between two boxes of a layer.
const BOX_GAP: f64 = 14.0;

/// Height held free for an edge that crosses a layer.
const PASS_HEIGHT: f64 = 10.0;

/// Rounds of ordering and of levelling.
const ROUNDS: usize = 12;

/// A box's left upper corner and size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    fn middle(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

/// A drawing, its left upper corner at (0, 0).
#[derive(Debug)]
pub(super) struct Layers {
    /// By node.
    pub(super) boxes: Vec<Rect>,
    /// By edge: points to go through, the ends included.
    pub(super) paths: Vec<Vec<(f64, f64)>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Nodes, and places held free for edges.
struct Cells {
    /// The nodes come first.
    rects: Vec<Rect>,
    /// Cells of each layer, top to bottom.
    layers: Vec<Vec<usize>>,
    /// Neighbours on the left, and on the right.
    left: Vec<Vec<usize>>,
    right: Vec<Vec<usize>>,
    /// By edge: its cells from left to right, both nodes included.
    chains: Vec<Vec<usize>>,
}

/// Lays out boxes of these (width, height). Edges go from left to right.
pub(super) fn layers(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Layers {
    let mut cells = Cells::new(sizes, edges);
    for round in 0..ROUNDS {
        cells.order(round % 2 == 0);
    }
    cells.place();
    let paths = cells.chains.iter().map(|chain| cells.path(chain)).collect();
    let right = |r: &Rect| r.x + r.width;
    let below = |r: &Rect| r.y + r.height;
    Layers {
        width: cells.rects.iter().map(right).fold(0.0, f64::max),
        height: cells.rects.iter().map(below).fold(0.0, f64::max),
        boxes: cells.rects[..sizes.len()].to_vec(),
        paths,
    }
}

/// The longest path to each node.
fn depths(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut depth = vec![0; nodes];
    // No path is longer than there are nodes: this ends even for a graph that has a circle.
    for _ in 0..nodes {
        let mut moved = false;
        for (from, to) in edges {
            if depth[*to] < depth[*from] + 1 && depth[*from] + 1 < nodes {
                depth[*to] = depth[*from] + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    depth
}

impl Cells {
    fn new(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Self {
        let depth = depths(sizes.len(), edges);
        let rect =
            |(width, height): &(f64, f64)| Rect { x: 0.0, y: 0.0, width: *width, height: *height };
        let mut layers = vec![Vec::new(); depth.iter().max().map_or(0, |d| d + 1)];
        depth.iter().enumerate().for_each(|(node, at)| layers[*at].push(node));
        let mut cells = Self {
            rects: sizes.iter().map(rect).collect(),
            layers,
            left: vec![Vec::new(); sizes.len()],
            right: vec![Vec::new(); sizes.len()],
            chains: Vec::with_capacity(edges.len()),
        };
        for (from, to) in edges {
            let mut chain = vec![*from];
            for layer in depth[*from] + 1..depth[*to] {
                let pass = cells.rects.len();
                cells.rects.push(rect(&(0.0, PASS_HEIGHT)));
                cells.left.push(Vec::new());
                cells.right.push(Vec::new());
                cells.layers[layer].push(pass);
                chain.push(pass);
            }
            chain.push(*to);
            for pair in chain.windows(2) {
                cells.right[pair[0]].push(pair[1]);
                cells.left[pair[1]].push(pair[0]);
            }
            cells.chains.push(chain);
        }
        cells
    }

    /// Orders each layer by the mean place of its neighbours on one side.
    fn order(&mut self, from_left: bool) {
        let mut place = vec![0.0; self.rects.len()];
        let rank = |layer: &[usize], place: &mut [f64]| {
            layer.iter().enumerate().for_each(|(at, cell)| place[*cell] = count(at));
        };
        self.layers.iter().for_each(|layer| rank(layer, &mut place));
        let layers: Vec<usize> = if from_left {
            (0..self.layers.len()).collect()
        } else {
            (0..self.layers.len()).rev().collect()
        };
        for layer in layers {
            let side = if from_left { &self.left } else { &self.right };
            let mut keyed: Vec<(f64, usize)> = self.layers[layer]
                .iter()
                .map(|cell| (mean(&side[*cell], |c| place[c]).unwrap_or(place[*cell]), *cell))
                .collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.layers[layer] = keyed.into_iter().map(|(_, cell)| cell).collect();
            rank(&self.layers[layer], &mut place);
        }
    }

    fn place(&mut self) {
        let mut x = 0.0;
        for layer in &self.layers {
            let width = layer.iter().map(|c| self.rects[*c].width).fold(0.0, f64::max);
            let mut y = 0.0;
            for cell in layer {
                let rect = &mut self.rects[*cell];
                // A place held free is as wide as its layer.
                if rect.width == 0.0 {
                    rect.width = width;
                }
                (rect.x, rect.y) = (x, y);
                y += rect.height + BOX_GAP;
            }
            x += width + LAYER_GAP;
        }
        for round in 0..ROUNDS {
            for nth in 0..self.layers.len() {
                let at = if round % 2 == 0 { nth } else { self.layers.len() - 1 - nth };
                self.level(at);
            }
        }
        let top = self.rects.iter().map(|r| r.y).fold(f64::INFINITY, f64::min);
        self.rects.iter_mut().for_each(|r| r.y -= top);
    }

    /// Moves a layer's cells towards their neighbours, as far as they leave each other room.
    fn level(&mut self, layer: usize) {
        let layer = &self.layers[layer];
        let wanted: Vec<f64> = layer
            .iter()
            .map(|cell| {
                let near: Vec<usize> =
                    self.left[*cell].iter().chain(&self.right[*cell]).copied().collect();
                let middle = mean(&near, |c| self.rects[c].middle());
                let rect = &self.rects[*cell];
                middle.unwrap_or(rect.middle()) - rect.height / 2.0
            })
            .collect();
        let mut shift = 0.0;
        let mut free = f64::NEG_INFINITY;
        for (cell, wanted) in layer.iter().zip(&wanted) {
            let rect = &mut self.rects[*cell];
            rect.y = wanted.max(free);
            shift += wanted - rect.y;
            free = rect.y + rect.height + BOX_GAP;
        }
        let shift = shift / count(layer.len()).max(1.0);
        layer.iter().for_each(|cell| self.rects[*cell].y += shift);
    }

    fn path(&self, chain: &[usize]) -> Vec<(f64, f64)> {
        let mut points = Vec::with_capacity(2 * chain.len());
        for (nth, cell) in chain.iter().enumerate() {
            let rect = &self.rects[*cell];
            if nth > 0 {
                points.push((rect.x, rect.middle()));
            }
            if nth + 1 < chain.len() {
                points.push((rect.x + rect.width, rect.middle()));
            }
        }
        points
    }
}

fn count(of: usize) -> f64 {
    u32::try_from(of).map_or(f64::MAX, f64::from)
}

fn mean(cells: &[usize], of: impl Fn(usize) -> f64) -> Option<f64> {
    (!cells.is_empty()).then(|| cells.iter().map(|c| of(*c)).sum::<f64>() / count(cells.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nodes: usize, edges: &[(usize, usize)]) -> Layers {
        let drawn = layers(&vec![(100.0, 40.0); nodes], edges);
        for (at, a) in drawn.boxes.iter().enumerate() {
            for b in &drawn.boxes[..at] {
                let beside = a.x + a.width < b.x || b.x + b.width < a.x;
                let above = a.y + a.height <= b.y || b.y + b.height <= a.y;
                assert!(beside || above, "{a:?} lies over {b:?}");
            }
            assert!(a.x >= 0.0 && a.y >= 0.0 && a.y + a.height <= drawn.height + 1e-6);
        }
        for ((from, to), path) in edges.iter().zip(&drawn.paths) {
            let (from, to) = (drawn.boxes[*from], drawn.boxes[*to]);
            assert_eq!(path.first(), Some(&(from.x + from.width, from.middle())));
            assert_eq!(path.last(), Some(&(to.x, to.middle())));
            assert!(path.windows(2).all(|p| p[0].0 <= p[1].0), "to the right: {path:?}");
        }
        drawn
    }

    #[test]
    fn boxes_do_not_overlap_and_edges_run_to_the_right() {
        check(1, &[]);
        check(2, &[(0, 1)]);
        check(6, &[(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 5), (4, 5), (0, 5)]);
        let many: Vec<(usize, usize)> = (1..30).flat_map(|n| [(n / 3, n), (0, n)]).collect();
        check(30, &many);
    }

    #[test]
    fn what_crosses_need_not_cross() {
        // 0 -> 3 and 1 -> 2, given in the order that would cross.
        let drawn = check(5, &[(0, 3), (1, 2), (3, 4), (2, 4)]);
        let above = |a: usize, b: usize| drawn.boxes[a].y < drawn.boxes[b].y;
        assert_eq!(above(0, 1), above(3, 2));
    }
}

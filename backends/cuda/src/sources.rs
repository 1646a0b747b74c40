//! The sources of kernels, put together from the files of `kernels`.

macro_rules! states {
    () => {
        concat!(include_str!("../kernels/common.cu"), include_str!("../kernels/elementary.cu"), include_str!("../kernels/states.cu"))
    };
}

macro_rules! fold {
    () => {
        concat!(
            include_str!("../kernels/elements.cu"),
            include_str!("../kernels/fold/shape.cu"),
            include_str!("../kernels/fold/pairs.cu"),
            include_str!("../kernels/fold/results.cu"),
            include_str!("../kernels/fold/stages.cu"),
            include_str!("../kernels/fold/loads.cu"),
            include_str!("../kernels/fold/walk.cu"),
        )
    };
}

macro_rules! finish_states {
    () => {
        concat!(include_str!("../kernels/elements.cu"), include_str!("../kernels/finish_stored.cu"), include_str!("../kernels/finish.cu"))
    };
}

/// What custom reducers need before them, and what needs them before it.
pub(crate) const STATES: &str = states!();
pub(crate) const FOLD: &str = fold!();
pub(crate) const FINISH_STATES: &str = finish_states!();
/// The sources without any.
pub(crate) const WHOLE_FOLD: &str = concat!(states!(), fold!());
pub(crate) const WHOLE_FINISH: &str = concat!(states!(), finish_states!());
pub(crate) const WHOLE_FINISH_PLAIN: &str = concat!(
    include_str!("../kernels/common.cu"),
    include_str!("../kernels/elementary.cu"),
    include_str!("../kernels/elements.cu"),
    include_str!("../kernels/finish_stored.cu"),
    include_str!("../kernels/finish_plain.cu"),
);
pub(crate) const WHOLE_MOVES: &str = concat!(
    include_str!("../kernels/common.cu"),
    include_str!("../kernels/finish_stored.cu"),
    include_str!("../kernels/finish_plain.cu"),
    include_str!("../kernels/chunks.cu"),
    include_str!("../kernels/moves.cu"),
);
pub(crate) const MAPS: &str = concat!(
    include_str!("../kernels/common.cu"),
    include_str!("../kernels/elementary.cu"),
    include_str!("../kernels/elements.cu"),
    include_str!("../kernels/chunks.cu"),
    include_str!("../kernels/map.cu"),
);

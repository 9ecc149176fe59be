/// How the other side broke the protocol; the session is over then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A payload that is too long or too short for its frame.
    #[error("{frame} with a payload of {length} bytes")]
    Length {
        /// The frame's name.
        frame: &'static str,
        /// The payload's length.
        length: usize,
    },
    /// A frame that names a link and should not, or the other way round.
    #[error("{frame} for link {link}")]
    Link {
        /// The frame's name.
        frame: &'static str,
        /// The link in its header.
        link: u32,
    },
    /// A frame of an unknown type that must be understood.
    #[error("a frame of type {0}, which this version does not understand and must")]
    NotUnderstood(u8),
    /// A frame that only the other role sends.
    #[error("{0} from the wrong side")]
    WrongSide(&'static str),
    /// A frame for a link that was never opened.
    #[error("{frame} for link {link}, which was never opened")]
    NeverOpened {
        /// The frame's name.
        frame: &'static str,
        /// The link.
        link: u32,
    },
    /// OPEN with a number that is not higher than those before.
    #[error("OPEN for link {0}, a number that is not new")]
    NotNew(u32),
    /// A frame that does not fit the state of its link.
    #[error("{frame} for link {link} {state}")]
    State {
        /// The frame's name.
        frame: &'static str,
        /// The link.
        link: u32,
        /// When it came.
        state: &'static str,
    },
    /// More DATA than there was credit for.
    #[error("DATA for link {0} beyond its credit")]
    BeyondCredit(u32),
    /// CREDIT of nothing, or of more than a link may have.
    #[error("CREDIT for link {0} of nothing or too much")]
    Credit(u32),
    /// A payload that cannot be read.
    #[error("a malformed payload of {frame}: {why}")]
    Payload {
        /// The frame's name.
        frame: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// More notes than the program takes.
    #[error("notes faster than they can be read")]
    TooManyNotes,
    /// It does not take the control frames that it causes.
    #[error("it does not read: {0} bytes of control frames are waiting")]
    NotReading(usize),
}

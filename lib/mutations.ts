/**
 * Deliberate bugs, all off. The simulator switches one on to show that its checker finds it (`npm run simulate --
 * --mutations`); nothing else may. Each breaks one rule that the design stands on.
 */
export const mutations = {
  /** Acknowledge a write when all but one replica have it */
  ackBeforeLastReplica: false,
  /** Serve requests of any epoch */
  skipEpochCheck: false,
  /** Believe the copies of a node that was away */
  trustReturningCopy: false,
  /** Write without an intent, and suspect nothing after a crash */
  forgetIntents: false,
  /** A flush reaches this node's disk only */
  flushLocalOnly: false,
  /** Trust what a writer that lost its lock has left under way */
  trustFenced: false,
  /** A daemon that stood still serves what clients asked meanwhile before it asks the cluster */
  trustPausedGateway: false,
  /** Take what is read at rest for what was written, whatever its checksum says */
  trustRot: false,
  /** What a node lacks proves that it was never written, also when the node has lost a disk */
  trustLostDisk: false,
  /** Believe the copies on a disk that was away as those of the others */
  trustReturningDisk: false,
  /** Of what nobody has who is here, zeros are the truth, though its holders are away and nobody has given it up */
  zerosForLost: false,
  /** A flush succeeds when what it was for is on disk as those have it who are here, whatever they lost with their power */
  believeFlush: false,
  /** Take a copy though changes that went by here may not be done yet where it is taken from */
  takeUnsettled: false,
  /** What a node lacks proves that it was never written, also when it has let changes go by */
  trustPassing: false,
}

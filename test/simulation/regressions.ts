/**
 * Seeds that once failed, with what was wrong. What a seed does changes with the code it runs, so each bug also has its
 * rule in the code or a test of its own; the seeds stay because they are cheap.
 */
import type { Worlds } from './shape.js'

export const REGRESSIONS: readonly { seed: number; worlds?: Worlds; cause: string }[] = [
  { seed: 3, cause: 'a node that returned brought deleted objects back to everybody' },
  { seed: 71, cause: 'a gateway cut off from the others came back and trusted what it alone had written' },
  { seed: 83, cause: 'a copy whose host had lost power was preferred to one whose host had stayed up' },
  { seed: 106, cause: 'leftovers of a volume that was open were taken for reachable' },
  { seed: 153, cause: 'an object lost with the power was made anew, empty, and valid after the next start' },
  { seed: 223, cause: 'an object removed while recovery listed it was copied back' },
  { seed: 120, cause: 'a creation whose node was out for a moment answered invalid' },
  { seed: 175, cause: 'a snapshot whose node was out for a moment answered no-object' },
  { seed: 314, cause: 'leftovers of a snapshot' },
  { seed: 320, cause: 'two lines of history: nodes started without one that had gone on' },
  { seed: 383, cause: 'leftovers of a deleted VDI' },
  { seed: 403, cause: 'a node that was expelled never joined again' },
  { seed: 453, cause: 'leftovers of a deleted VDI' },
  {
    seed: 458,
    cause: 'one daemon alone went on under the quorum of hosts; the others started without it, its VDIs were gone',
  },
  {
    seed: 531,
    cause: 'index entries that were not flushed went with the only replica of the inode, the gateway stayed',
  },
  { seed: 858, cause: 'stale copies came back when the node that alone had gone on lost a new object with its power' },
  { seed: 776, cause: 'a node that was away kept an object of a deleted VDI whose vid was given again' },
  { seed: 2056, cause: 'shrinking waited for an object whose recovery asked a gateway that there was none of' },
  { seed: 3609, cause: 'a node that joined while a VDI was being freed kept its inode' },
  { seed: 6281, cause: 'the power brought an object back that a new one had replaced, and it was taken for that' },
  {
    seed: 6712,
    cause: 'one whose host had lost power was believed, for it had been back an epoch, with the other away',
  },
  { seed: 6777, cause: 'members that froze waited for ever for an epoch that had not taken effect' },
  {
    seed: 7155,
    cause: 'index entries went with the power of their only holders, while their gateway went on with them',
  },
  { seed: 154, cause: 'absence in epochs in which nothing had gone by was doubted, and a burnt host was waited for' },
  { seed: 20732, cause: 'a copy that had moved away was taken for lost, made anew, empty, and valid in a later epoch' },
  {
    seed: 21607,
    cause: 'a gateway was asked whether a change that went by was done, before it had heard that it had gone by',
  },
  {
    seed: 21215,
    cause: 'the simulator crowded the other disk of a host whose first had died unnoticed: there is no room then',
  },
  {
    seed: 40126,
    cause: 'the simulator burnt one holder and cut the power of the other, and expected what was not flushed',
  },
  { seed: 40931, cause: 'the simulator took a scrub that had begun before bits rotted for one that sees them' },
  { seed: 252, cause: 'discarded and made again in one epoch: the power brought the former object back' },
  {
    seed: 20110,
    cause: 'an object that a broken lock had cut off was kept while its VDI was being freed, and for good',
  },
  { seed: 21622, cause: 'a volume was closed while an object of a deleted ancestor was being freed' },
  { seed: 60276, cause: 'what a disk that came back had of a deleted VDI counted as lost, and was waited for' },
  { seed: 60874, cause: 'a leftover of an open volume counted as lost with a disk, and was waited for' },
  {
    seed: 20461,
    cause:
      'a disk failed long after all was recovered: what had gone by there before made objects of others count as lost',
  },
  { seed: 21513, cause: 'a removed object waited for the disk that its newest copy had been on, and recovery with it' },
  { seed: 20534, cause: 'the only disk that was left failed as the daemon started: an error without a name' },
  {
    seed: 50274,
    cause:
      'the planner took hosts away from one whose disk failed unnoticed: what it alone had written was lost indeed',
  },
  {
    seed: 50596,
    cause:
      'a newcomer that had asked anew repeated its own word as a loss of its place: the others counted it in, for good',
  },
  {
    seed: 51499,
    cause: 'recovery read a sector that cannot be read again and again, until the disk was given up for it',
  },
  { seed: 100484, cause: 'the lowest member was drained, and nobody freed what a creation that was cut off had left' },
  { seed: 104431, cause: 'a creation whose answer was lost was only ended when its node happened to be the lowest' },
  {
    seed: 104611,
    cause:
      'a copy was taken of one that had become valid after the writers were asked: a change that went by was not there yet',
  },
  { seed: 101072, cause: 'a copy was kept as equal to one that had become valid meanwhile, and lacked what went by' },
  {
    seed: 104199,
    cause:
      'a disk was lost in the epoch in which the other host lost power: it counted as one that went on and had more',
  },
  {
    seed: 100647,
    cause: "the simulator took the close of a migration's target that never had the lock for a flush of the source",
  },
  {
    seed: 100628,
    cause: 'the simulator gave a daemon that stood still a message of one that left, and took it from the others',
  },
  {
    seed: 100444,
    cause: 'one that had let a change go by was not flushed when it had a right copy, and newer writes in it',
  },
  { seed: 100755, cause: 'the same, and the power of all went' },
  { seed: 105137, cause: 'the same, and the copies differed on disk' },
  {
    seed: 101051,
    cause: 'a node that came back with other disks counted as having lost what it never had after the power failure',
  },
  {
    seed: 104126,
    cause: 'a disk that failed while all replicas were there counted as having what they lost with their power later',
  },
  {
    seed: 106030,
    cause:
      'a disk came back, and the others, which had not heard of the last epoch, counted as having been away from it',
  },
  { seed: 109448, cause: 'the same, and objects were waited for that had gone nowhere' },
  { seed: 108692, cause: 'the same, and the inode of a volume could not be read' },
  {
    seed: 109370,
    cause:
      'a node that had been voted out was believed, with a last write that only it had; the replica that had gone on without it was away',
  },
  { seed: 122057, cause: 'shrinking opened a volume as the target of its migration, and cut it beside its writer' },
  {
    seed: 304022,
    cause: 'the simulator let a copy that was being shared as its daemon stopped fail with nobody to hear of it',
  },
  {
    seed: 400483,
    cause:
      'what a gateway left of a VDI was looked for under the VDI of its child only: a snapshot had frozen it meanwhile',
  },
  {
    seed: 460153,
    cause:
      'a daemon that stood still while it was being stopped did not notice, and answered reads of a volume that was no longer its own',
  },
  {
    seed: 443007,
    cause: 'the simulator took the source of a migration for shut out though the first write of the target had failed',
  },
  {
    seed: 602058,
    cause:
      'a snapshot whose node was out of the cluster while it waited for the writer made the inode of a vid that others had freed',
  },
  {
    seed: 603404,
    cause:
      'a node looked a name up that, in the order of all, a snapshot had given to another vid: it opened the snapshot',
  },
  {
    seed: 603387,
    cause: 'the simulator took the last disk that counted from a host whose other one had just been plugged in',
  },
  {
    seed: 603622,
    cause: 'the entry of an object was cleared, its gateway had no answer, and left the object without a word',
  },
  {
    seed: 608298,
    cause:
      'what a power loss had brought back was kept since its object was being discarded, and nobody looked again afterwards',
  },
  {
    seed: 730328,
    cause:
      'the last part of a copy was rotten at its source, so that its file ended before it: mending it wrote nothing, and counted as done',
  },
  {
    seed: 732538,
    cause:
      'a disk failed, and its node stood still: it counted as having served with it in the epochs that others began meanwhile',
  },
  {
    seed: 732941,
    cause: 'the simulator burnt a host while another had given its share up, and took the disk with the only copy',
  },
  {
    seed: 86,
    worlds: 'lossy',
    cause:
      'the inode of a VDI that was being deleted was lost: nobody could free it, nothing said so, and recovery never ended',
  },
  {
    seed: 745134,
    worlds: 'hard',
    cause:
      'a snapshot answered an I/O error when the node that has the volume open had been out of the cluster for a moment',
  },
  {
    seed: 602350,
    cause:
      'the checker: who reads beside the writer may be answered by another once that one is cut off, with what it was writing or without',
  },
  {
    seed: 603510,
    cause:
      'a copy that was being taken was believed in the next epoch: a gateway had gone meanwhile, and others had a write of its that this copy lacked',
  },
  {
    seed: 31,
    worlds: 'power',
    cause: 'a flush succeeded though all that had the writes had lost their power, and them',
  },
  {
    seed: 600028,
    cause:
      'flushes failed when the only holder of a write had lost a disk, of several: it had the write on another one',
  },
  {
    seed: 604606,
    cause: 'flushes failed when the only holder of a write started anew, and had lost a disk before that write',
  },
  {
    seed: 604678,
    cause:
      'the checker: the only holder of a write lost a disk and got one before anybody flushed, so the flush may fail',
  },
  {
    seed: 34,
    worlds: 'spoilt',
    cause:
      'an object was given up as lost when a host that had lost a disk earlier had not been in any epoch before it did',
  },
  {
    seed: 2109,
    worlds: 'spoilt',
    cause:
      'a surviving copy counted for nothing once its node had recovered an epoch in which the object is not in its share',
  },
  {
    seed: 332,
    worlds: 'spoilt',
    cause: 'making a volume with a lost object smaller failed as if that object had never been',
  },
  {
    seed: 2649,
    worlds: 'spoilt',
    cause:
      'a daemon that stood still for three seconds answered a hole before it knew that the others had gone on without it',
  },
  {
    seed: 701178,
    cause:
      'an index that had never been written was waited for, from a host that was gone for good before its volume was made',
  },
  {
    seed: 5194,
    worlds: 'spoilt',
    cause: 'objects of a snapshot that was deleted while dog cluster lost looked were listed as lost',
  },
  {
    seed: 8025,
    worlds: 'power',
    cause:
      'an object was dropped that only the stored index named: a gateway that had it cleared, by a write that the power took, said that nothing did',
  },
  {
    seed: 8243,
    worlds: 'power',
    cause:
      'the checker: what a gateway goes on with after a power loss took a part of its index is gone with it, unless it is flushed',
  },
  {
    seed: 9141,
    worlds: 'power',
    cause:
      'flushes failed when those who had a write lost their power one after the other, though others had recovered in between',
  },
  {
    seed: 610372,
    cause:
      'an object was freed that a gateway was about to name: the lock was not known yet on the node that looked, whose disk was slow',
  },
  { seed: 611526, cause: "the checker: a migration's target opens beside a writer that has changes in flight" },
  {
    seed: 622231,
    cause: 'the checker: what a read had said of a cell was taken for what was known of it after its flush',
  },
  { seed: 622412, cause: 'the checker: who lost its power may be back first, and believed, so flushes may fail' },
  {
    seed: 622777,
    cause:
      'the checker: a discard under way in a power loss is done all the same, and a flush says nothing of what was there before',
  },
  {
    seed: 630396,
    cause: 'the checker: a read that was under way in a power loss may find what the power left',
  },
  {
    seed: 630619,
    cause:
      'a flush counted on one that was no replica any more, though those that were are believed when they have lost their power',
  },
  { seed: 630629, cause: 'the planner: with a disk all copies of something went that the power would have left' },
  {
    seed: 631195,
    cause: 'recovery never ended: an object that had stood in the line of an epoch could not stand in that of the next',
  },
  {
    seed: 641509,
    cause:
      'the only right copy was doubted since a disk was plugged in again whose intent log spoke of a copy of long ago, and gave way to an older one',
  },
  {
    seed: 665344,
    cause:
      'an own copy of an ancestor object was named though its replicas had lost it with their power before its last piece was synced',
  },
  {
    seed: 112,
    worlds: 'plugged',
    cause: 'the simulator let a daemon attach one disk twice, which flock does not',
  },
  { seed: 650350, cause: 'the checker: a read that was under way in a power loss may find what the power left' },
  {
    seed: 690111,
    worlds: 'spoilt',
    cause: 'the checker: a snapshot was taken while the list of what is lost was made, and refers to it',
  },
  {
    seed: 690215,
    worlds: 'spoilt',
    cause: 'a disk that had been away brought an old copy back in place of one that all nodes had lost since',
  },
  {
    seed: 690101,
    worlds: 'lossy',
    cause: 'the planner: hosts were lost for good when another one was about to be left out, and too few were left',
  },
  {
    seed: 690386,
    worlds: 'lossy',
    cause: 'the planner: those who went were all that knew of an index, and it was given up',
  },
  {
    seed: 700309,
    worlds: 'spoilt',
    cause: 'the planner: a disk was dead, no daemon had noticed, and nothing was listed as lost',
  },
  {
    seed: 700368,
    worlds: 'spoilt',
    cause: 'an object was made anew from the intent log of another disk, in place of one that had gone with its own',
  },
  {
    seed: 710154,
    worlds: 'plugged',
    cause: 'what all disks that were here had lost was said to be lost, and the host that has a copy was only away',
  },
  { seed: 710290, worlds: 'lossy', cause: 'the planner: the same, where there is one copy of everything' },
  {
    seed: 760739,
    cause:
      'epochs were forgotten when each node had recovered some later one, though not all the same: those that held an object had been away in one, and nobody missed it',
  },
  {
    seed: 761025,
    cause: 'what an intent log made anew, empty, after the power had been lost, passed for newer than a whole copy',
  },
  { seed: 764730, cause: 'the checker: a write that had failed between two power losses was forgotten' },
  {
    seed: 770115,
    worlds: 'hard',
    cause: 'the planner: asked whether it was well, a daemon noticed that it was not, and died',
  },
  {
    seed: 806634,
    cause:
      "what a migration's target was reading at a source that had gone was answered long after it had the lock, and after writes that came later",
  },
  {
    seed: 809877,
    cause: 'a leftover that changed while it was being judged was judged no more: it was taken from another just then',
  },
]

/** Numbers of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd), under its own names. All integers are big-endian. */

/** "NBDMAGIC", "IHAVEOPT" and the option reply magic, in two words each. */
export const INIT_MAGIC = [0x4e42444d, 0x41474943] as const
export const OPTION_MAGIC = [0x49484156, 0x454f5054] as const
export const OPTION_REPLY_MAGIC = [0x0003e889, 0x045565a9] as const

export const FLAG_FIXED_NEWSTYLE = 1 << 0
export const FLAG_NO_ZEROES = 1 << 1

export const OPT_EXPORT_NAME = 1
export const OPT_ABORT = 2
export const OPT_LIST = 3
export const OPT_STARTTLS = 5
export const OPT_INFO = 6
export const OPT_GO = 7
export const OPT_STRUCTURED_REPLY = 8
export const OPT_LIST_META_CONTEXT = 9
export const OPT_SET_META_CONTEXT = 10

export const REP_ACK = 1
export const REP_SERVER = 2
export const REP_INFO = 3
export const REP_META_CONTEXT = 4
export const REP_ERR_UNSUP = 0x80000001
export const REP_ERR_POLICY = 0x80000002
export const REP_ERR_INVALID = 0x80000003
export const REP_ERR_TLS_REQD = 0x80000005
export const REP_ERR_UNKNOWN = 0x80000006
export const REP_ERR_SHUTDOWN = 0x80000007
export const REP_ERR_TOO_BIG = 0x80000009

export const INFO_EXPORT = 0
export const INFO_NAME = 1
export const INFO_DESCRIPTION = 2
export const INFO_BLOCK_SIZE = 3

export const TRANSMISSION_HAS_FLAGS = 1 << 0
export const TRANSMISSION_READ_ONLY = 1 << 1
export const TRANSMISSION_SEND_FLUSH = 1 << 2
export const TRANSMISSION_SEND_FUA = 1 << 3
export const TRANSMISSION_SEND_TRIM = 1 << 5
export const TRANSMISSION_SEND_WRITE_ZEROES = 1 << 6
export const TRANSMISSION_SEND_DF = 1 << 7
export const TRANSMISSION_CAN_MULTI_CONN = 1 << 8
export const TRANSMISSION_SEND_CACHE = 1 << 10
export const TRANSMISSION_SEND_FAST_ZERO = 1 << 11

export const REQUEST_MAGIC = 0x25609513
export const SIMPLE_REPLY_MAGIC = 0x67446698
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef

/** Bytes of a request before its payload, and of each kind of reply. */
export const REQUEST_LENGTH = 28
export const SIMPLE_REPLY_LENGTH = 16
export const STRUCTURED_REPLY_LENGTH = 20

export const CMD_READ = 0
export const CMD_WRITE = 1
export const CMD_DISC = 2
export const CMD_FLUSH = 3
export const CMD_TRIM = 4
export const CMD_CACHE = 5
export const CMD_WRITE_ZEROES = 6
export const CMD_BLOCK_STATUS = 7

export const CMD_FLAG_FUA = 1 << 0
export const CMD_FLAG_NO_HOLE = 1 << 1
export const CMD_FLAG_DF = 1 << 2
export const CMD_FLAG_REQ_ONE = 1 << 3
export const CMD_FLAG_FAST_ZERO = 1 << 4

export const REPLY_FLAG_DONE = 1 << 0
export const REPLY_TYPE_NONE = 0
export const REPLY_TYPE_OFFSET_DATA = 1
export const REPLY_TYPE_BLOCK_STATUS = 5
export const REPLY_TYPE_ERROR = 0x8001

export const STATE_HOLE = 1 << 0
export const STATE_ZERO = 1 << 1

export const EPERM = 1
export const EIO = 5
export const ENOMEM = 12
export const EINVAL = 22
export const ENOSPC = 28
export const EOVERFLOW = 75
export const ENOTSUP = 95
export const ESHUTDOWN = 108

const EDQUOT = 122
const EFBIG = 27
const EROFS = 30
const EACCES = 13

/** The NBD error value for a Linux errno: the protocol has only these. */
export function errorValue(errno: number): number {
  switch (errno) {
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
      return errno
    case EDQUOT:
    case EFBIG:
      return ENOSPC
    case EROFS:
    case EACCES:
      return EPERM
    default:
      return EIO
  }
}

/** What clients are told and held to. One byte is fine: partial blocks cost the gateway no read. */
export const BLOCK_SIZE_MIN = 1
export const BLOCK_SIZE_PREFERRED = 4096
/** Longest read or write, bytes. */
export const PAYLOAD_MAX = 32 << 20

export const META_CONTEXT = 'base:allocation'
export const META_CONTEXT_ID = 1

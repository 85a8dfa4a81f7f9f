/**
 * HBase (ZooKeeper, master and region server in one process) or its Thrift gateway, for live tests.
 * It ends when its standard input does: with the test that started it, however that ends.
 *
 * <pre>java ... HbaseServer.java hbase | gateway PORT INFO_PORT</pre>
 */
public final class HbaseServer {
  public static void main(String[] args) throws Exception {
    Thread watch = new Thread(HbaseServer::endWithParent, "parent");
    watch.setDaemon(true);
    watch.start();
    if (args[0].equals("hbase")) {
      org.apache.hadoop.hbase.master.HMaster.main(new String[] {"start"});
    } else {
      org.apache.hadoop.hbase.thrift.ThriftServer.main(new String[] {
        "-threadpool", "-b", "127.0.0.1", "-p", args[1], "--infoport", args[2], "start"});
    }
  }

  private static void endWithParent() {
    try {
      while (System.in.read() >= 0) {
        // Nothing is said: only the end counts.
      }
    } catch (java.io.IOException gone) {
      System.err.println("standard input: " + gone);
    }
    Runtime.getRuntime().halt(0);
  }
}

<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * What became of the records of a bulk call.
 *
 * @api
 */
interface BulkReceiptInterface
{
    /**
     * Records that are new
     *
     * @return int
     */
    public function getRecordedCount();

    /**
     * @param int $recordedCount
     * @return $this
     */
    public function setRecordedCount($recordedCount);

    /**
     * Records that the store held already, with the same content
     *
     * @return int
     */
    public function getRepeatedCount();

    /**
     * @param int $repeatedCount
     * @return $this
     */
    public function setRepeatedCount($repeatedCount);

    /**
     * Records of which nothing was stored
     *
     * @return \Tocsin\BreachNotification\Api\Data\RefusedRecordInterface[]
     */
    public function getRefused();

    /**
     * @param \Tocsin\BreachNotification\Api\Data\RefusedRecordInterface[] $refused
     * @return $this
     */
    public function setRefused($refused);
}

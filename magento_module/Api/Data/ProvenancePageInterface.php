<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * A page of provenance records, oldest first.
 *
 * @api
 */
interface ProvenancePageInterface
{
    /**
     * The records of this page
     *
     * @return \Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface[]
     */
    public function getItems();

    /**
     * @param \Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface[] $items
     * @return $this
     */
    public function setItems($items);

    /**
     * Records in all pages
     *
     * @return int
     */
    public function getTotalCount();

    /**
     * @param int $totalCount
     * @return $this
     */
    public function setTotalCount($totalCount);
}

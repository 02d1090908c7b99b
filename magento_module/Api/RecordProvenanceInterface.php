<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Takes one record of what a model wrote about whom.
 *
 * @api
 */
interface RecordProvenanceInterface
{
    /**
     * Record one AI write.
     *
     * A record that the store holds already with the same content is accepted again as "repeated", so that a call may be
     * repeated until it is answered.
     *
     * @param \Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface $record or an array of its fields by name
     * @return \Tocsin\BreachNotification\Api\Data\ProvenanceReceiptInterface
     * @throws \Magento\Framework\Exception\InputException names each field at fault; nothing was stored
     */
    public function execute($record);
}
